"""Encode visual and encode sync: frames on MMAudio's grid, of any film, and the networks' features of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from curation.operator import Env, Input, Operator
from curation.sound_clips import ClipConfig
from curation.sync_features import ENCODE_SYNC_OPERATOR, EncodeSyncConfig
from curation.tensors import unpack
from curation.visual_features import ENCODE_VISUAL_OPERATOR, EncodeVisualConfig
from lumina.training.data.index import FEATURES, Index
from lumina.video_to_audio.frames import grid_indices
from lumina.video_to_audio.lengths import lengths
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.synchformer import load_synchformer
from pipelines.base_config import ZOO
from tests.curation.in_memory import planned
from tests.curation.numbered import Film, picture, write
from tests.curation.selected import Row, encoded, outcome, report, select_all

WEIGHTS = {"clip": str(ZOO / "clip"), "synchformer": str(ZOO / "synchformer")}
VARIABLE = tuple(Fraction(at, 50) for at in (0, 1, 2, 7, 8, 9, 30, 31, 33, 36, 40, 41, 42, 43, 60, 62, 64, 65, 66, 68))
SLOW = tuple(Fraction(at, 10) for at in range(15))
CONSTANT = tuple(Fraction(at, 24) for at in range(48))
CASES: tuple[tuple[Operator, ClipConfig], ...] = (
    (ENCODE_VISUAL_OPERATOR, EncodeVisualConfig()),
    (ENCODE_SYNC_OPERATOR, EncodeSyncConfig()),
)


def film(stamps: tuple[Fraction, ...], **settings: object) -> Film:
    """Nothing is lost in it, and colours are those that were written."""
    return Film("ffv1", pix_fmt="bgr0", stamps=stamps, time_base=Fraction(1, 1000), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def select(tmp_path_factory: pytest.TempPathFactory) -> Input:
    """Films of constant and of variable rates, turned, cut, and too short."""
    root = tmp_path_factory.mktemp("frames")
    clips = root / "clips"
    clips.mkdir()
    write(clips / "constant.mkv", film(CONSTANT))
    write(clips / "variable.mkv", film(VARIABLE))
    write(clips / "slow.mkv", film(SLOW, rate=Fraction(10)))
    write(clips / "span.mkv", film(CONSTANT))
    write(clips / "brief.mkv", film(CONSTANT[:15]))
    quarter = [0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824]
    lossless = {"preset": "ultrafast", "crf": "0"}
    write(clips / "turned.mp4", Film("libx264", pix_fmt="yuv444p", matrix=quarter, options=lossless))
    Image.new("RGB", (64, 64)).save(clips / "still.png")
    return select_all(root, {"span.mkv": (0.5, 1.46)})


def plain(name: str, fps: int, count: int) -> NDArray[np.uint8]:
    """The frames of a film by the rule alone."""
    stamps = {"constant": CONSTANT, "variable": VARIABLE, "slow": SLOW}.get(name, CONSTANT)
    numbers = list(range(len(stamps)))
    if name == "span":
        numbers, stamps = numbers[12:35], tuple(stamp - Fraction(1, 2) for stamp in stamps[12:35])
    # As Matroska stores them.
    seconds = [float(Fraction(round(1000 * stamp), 1000)) for stamp in stamps]
    return np.stack([picture(numbers[index]) for index in grid_indices(seconds, fps, count)])


def features(row: Row) -> torch.Tensor:
    return unpack(row["feature_bytes"], row["feature_shape"], row["feature_dtype"])


@pytest.mark.parametrize(("operator", "config"), CASES)
def test_features_are_those_of_a_plain_loop(operator: Operator, config: ClipConfig, select: Input) -> None:
    rows = encoded(operator, select, config, WEIGHTS)
    stage = operator.name
    well = ("ok", None, None)
    assert {name: outcome(row) for name, row in rows.items()} == {
        "constant.mkv": well,
        "variable.mkv": well,
        "slow.mkv": well,
        "span.mkv": well,
        "turned.mp4": well,
        "brief.mkv": ("filtered", "too_few_frames", stage),
        "still.png": ("filtered", "other_media", stage),
    }
    clip, network = load_clip_features(WEIGHTS["clip"]), load_synchformer(WEIGHTS["synchformer"])
    lasting = {row["uri"]: row["duration_s"] for row in select.rows().to_pylist()}
    for name in ("constant", "variable", "slow", "span"):
        found, needed = features(rows[f"{name}.mkv"]), lengths(lasting[f"{name}.mkv"])
        if operator is ENCODE_VISUAL_OPERATOR:
            expected = clip.visual(plain(name, 8, needed.visual_frames))
        else:
            expected = network.features(plain(name, 25, needed.sync_frames))
        assert torch.equal(found, expected), name

    assert encoded(operator, select, config, WEIGHTS, backwards=True) == rows
    assert report(operator, select, config).files == ()
    index = Index([select.path.parent / stage], FEATURES)
    assert (len(index), index.left_out) == (5, {"filtered": 2})


def test_a_film_is_seen_as_it_is_shown(select: Input) -> None:
    row = encoded(ENCODE_VISUAL_OPERATOR, select, EncodeVisualConfig(), WEIGHTS)["turned.mp4"]
    clip = load_clip_features(WEIGHTS["clip"])
    shown = np.stack([picture(index) for index in grid_indices([at / 24 for at in range(48)], 8, 16)])
    upright = clip.visual(shown)
    turned = [clip.visual(np.ascontiguousarray(np.rot90(shown, turns, (1, 2)))) for turns in (1, 3)]
    near = [float((features(row) * other).sum(1).mean()) for other in (upright, *turned)]
    assert max(near[1:]) > 0.99
    assert max(near[1:]) > near[0]


def test_a_long_clip_is_encoded_from_its_start(select: Input) -> None:
    for operator, config, rows in (
        (ENCODE_VISUAL_OPERATOR, EncodeVisualConfig(window_s=1), 8),
        (ENCODE_SYNC_OPERATOR, EncodeSyncConfig(window_s=1), 16),
    ):
        found = encoded(operator, select, config, WEIGHTS)
        assert features(found["constant.mkv"]).shape[0] == rows
    half = encoded(ENCODE_SYNC_OPERATOR, select, EncodeSyncConfig(dtype="bfloat16"), WEIGHTS)["constant.mkv"]
    assert (half["feature_dtype"], len(half["feature_bytes"])) == ("bfloat16", 2 * int(np.prod(half["feature_shape"])))


def test_the_recipe_tells_what_decides_the_features(select: Input) -> None:
    for operator, config in CASES:
        cpu, gpu = (config.on(device) for device in ("cpu", "cuda"))
        assert cpu.recipe_id != gpu.recipe_id  # type: ignore[attr-defined]
        assert cpu.recipe_id == operator.config(batch=3).on("cpu").recipe_id  # type: ignore[attr-defined]
        plan = planned(operator, {"select": select}, config, Env(""))
        assert plan["clip_id"].to_pylist() == sorted(plan["clip_id"].to_pylist())
        assert set(plan.filter(plan["status"].to_numpy() == "ok")["recipe_id"].to_pylist()) == {cpu.recipe_id}  # type: ignore[attr-defined]
