from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from curation.operator import Env, Input, apply
from curation.rules import score_columns
from curation.score_columns import OF_VIDEOS, SCORERS, SCORES, columns_of
from curation.score_frames import sampled
from curation.scores import (
    CAMERA_OPERATOR,
    SCORES_OPERATOR,
    CameraConfig,
    CaptionMatchConfig,
    QualityConfig,
    ScoresConfig,
)
from lumina.video import write_h264
from tests.curation.scored import panned, probed, scored, texture

H, W, T, FPS = 96, 128, 24, 12
QUALITY = ScoresConfig(quality=QualityConfig())


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 files, each with one fault whose size is known, and a text file and an image beside them."""
    root = tmp_path_factory.mktemp("faulty")
    fields = panned(texture(1, H, W), 2 * T, 3)
    sound = fields[::2].copy()
    woven = sound.copy()
    woven[:, 1::2] = fields[1::2][:, 1::2]
    letterbox, pillarbox, both = sound.copy(), sound.copy(), sound.copy()
    letterbox[:, :12] = letterbox[:, -12:] = 0
    pillarbox[:, :, :16] = 0
    both[:, :12] = both[:, :, :32] = 0
    halved, thirds = sound.copy(), sound.copy()
    halved[1::2] = halved[::2]
    thirds[1::3] = thirds[::3]
    split = np.full_like(sound, 128)
    split[:, :, :32], split[:, :, 96:] = 0, 255
    split[:, ::4, :32:4] = 60  # no bar, for all that it is dark
    coloured = np.full_like(sound, 100)
    coloured[..., 0] = 200
    films = {
        "sound": sound, "woven": woven, "letterbox": letterbox, "pillarbox": pillarbox, "both": both, "halved": halved,
        "thirds": thirds, "split": split, "coloured": coloured, "black": np.zeros_like(sound),
        "blurred": np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in sound]), "one": sound[:1],
    }  # fmt: skip
    for name, frames in films.items():
        write_h264(root / f"{name}.mp4", frames, FPS, crf=26)
    Image.fromarray(letterbox[0]).save(root / "still.png")
    (root / "broken.mp4").write_bytes((root / "sound.mp4").read_bytes()[:900])
    return root


def test_planted_faults_are_found_at_their_size(faulty: Path) -> None:
    rows = scored(faulty, sorted(path.name for path in faulty.iterdir()), QUALITY)
    broken = rows.pop("broken.mp4")
    assert (broken["status"], broken["sharpness"]) == ("quarantined", None)
    assert {row["status"] for row in rows.values()} == {"ok"}
    found = {name.partition(".")[0]: row for name, row in rows.items()}
    bars = {"letterbox": (24 / H, 0), "pillarbox": (0, 16 / W), "both": (12 / H, 32 / W), "still": (24 / H, 0)}
    for name, row in found.items():
        high, wide = bars.get(name, (1, 1) if name == "black" else (0, 0))
        assert (row["bar_rows"], row["bar_columns"]) == pytest.approx((high, wide), abs=1e-6), name
        assert row["black_bars"] == pytest.approx(1 - (1 - high) * (1 - wide)), name
    films = {name: row for name, row in found.items() if name not in ("still", "one")}
    still = {"split", "coloured", "black"}
    for name, row in films.items():
        share = 1.0 if name in still else {"halved": 12 / 23, "thirds": 8 / 23}.get(name, 0)
        assert row["duplicate_frames"] == pytest.approx(share), name
        assert row["combed_frames"] == (name == "woven"), name
    assert {found[name]["duplicate_frames"] for name in ("still", "one")} == {None}
    assert {found[name]["combed_frames"] for name in ("still", "one")} == {None}
    assert found["sound"]["sharpness"] > 4 * found["blurred"]["sharpness"] > 0
    assert found["letterbox"]["sharpness"] == pytest.approx(found["sound"]["sharpness"], rel=0.3)
    assert found["split"]["black_clipped"] == pytest.approx(32 / W * 15 / 16, abs=0.03)
    assert found["split"]["white_clipped"] == pytest.approx(32 / W, abs=0.01)
    assert found["coloured"]["saturation"] == pytest.approx(100 / 255, abs=0.02)
    assert found["sound"]["saturation"] < 0.02
    assert found["coloured"]["luma"] == pytest.approx((0.299 * 200 + 0.701 * 100) / 255, abs=0.01)
    assert (found["black"]["luma"], found["black"]["black_clipped"]) == (0, 1)
    assert [found[name]["frames_scored"] for name in ("sound", "one", "still")] == [8, 1, 1]


def test_the_window_and_the_samples_are_those_of_the_config(faulty: Path) -> None:
    config = ScoresConfig(quality=QualityConfig(), samples=5, window_s=0.5)
    rows = scored(faulty, ["sound.mp4", "halved.mp4"], config)
    assert {row["frames_scored"] for row in rows.values()} == {5}
    assert rows["halved.mp4"]["duplicate_frames"] == pytest.approx(3 / 5)


def test_what_a_scorer_finds_depends_on_no_other(faulty: Path) -> None:
    names = ["sound.mp4", "thirds.mp4", "still.png"]
    alone = scored(faulty, names, QUALITY)
    camera = scored(faulty, names, ScoresConfig(camera=CameraConfig()), operator=CAMERA_OPERATOR)
    both = scored(faulty, names, QUALITY.model_copy(update={"camera": CameraConfig()}))
    for name in names:
        for scorer, rows, other in (("quality", alone, camera), ("camera", camera, alone)):
            assert [rows[name][column] for column in SCORERS[scorer]] == [both[name][one] for one in SCORERS[scorer]]
            assert all(other[name].get(column) is None for column in SCORERS[scorer])
        # The table of a scorer's own stage has no other's columns.
        assert camera[name].items() <= both[name].items()
    assert both["sound.mp4"]["camera_pan"] == pytest.approx(6 * FPS / H, rel=0.02)
    assert both["still.png"]["camera_pan"] is None


def test_a_clip_in_which_no_frame_is_shown_is_set_aside_by_its_reason(faulty: Path) -> None:
    table = probed(faulty, ["sound.mp4"])
    empty = table.set_column(table.schema.get_field_index("duration_s"), "duration_s", [[0.0]])
    assert SCORES_OPERATOR.map is not None
    [row] = apply(SCORES_OPERATOR, SCORES_OPERATOR.map(QUALITY, Env(str(faulty))), empty).to_pylist()
    assert (row["status"], row["reason"], row["detail"]) == ("filtered", "too_few_frames", "0 s: no frame to score")


def test_a_corrected_caption_concerns_the_scorer_that_reads_it_alone(faulty: Path, tmp_path: Path) -> None:
    assert SCORES_OPERATOR.plan is not None
    (tmp_path / "data").mkdir()
    plans, table = {}, probed(faulty, ["sound.mp4"])
    column = table.schema.get_field_index("caption")
    for caption in ("a", "b"):
        pq.write_table(table.set_column(column, "caption", [[caption]]), tmp_path / "data" / "part.parquet")
        for config in (QUALITY, ScoresConfig(caption_match=CaptionMatchConfig())):
            plans[config, caption] = SCORES_OPERATOR.plan({"clips": Input(tmp_path)}, config, Env("")).to_pylist()
    assert plans[QUALITY, "a"] == plans[QUALITY, "b"]
    assert plans[config, "a"] != plans[config, "b"]


def test_every_column_is_a_number_that_a_rule_may_name() -> None:
    assert set(columns_of(["camera"])) == set(score_columns(CAMERA_OPERATOR.schema))
    columns = columns_of(SCORERS)
    assert len(set(columns)) == len(columns)
    assert set(columns) == set(score_columns(SCORES))
    assert set(columns) >= OF_VIDEOS
    assert ScoresConfig.model_validate({name: {} for name in SCORERS}).scorers == tuple(SCORERS)
    assert ScoresConfig().scorers == ()
    with pytest.raises(ValidationError, match="qualty"):
        ScoresConfig.model_validate({"qualty": {}})


@pytest.mark.parametrize(("count", "samples", "found"), [(1, 8, [0]), (3, 8, [0, 1, 2]), (8, 2, [2, 6]), (9, 1, [4])])
def test_samples_are_the_middles_of_equal_parts(count: int, samples: int, found: list[int]) -> None:
    assert sampled(count, samples) == found
