from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.film_frames import Track
from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig, crop_of, encode_times, plan_row
from curation.operator import Env
from curation.prompts import ENCODE_TEXT_OPERATOR, EncodeTextConfig
from curation.schema import Reason, RowError, Status, set_aside, status_not_ok
from lumina.frame_times import pick_indices
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.text_encoder import TextEncoder
from lumina.precision import Precision
from lumina.sizes import resize_crop

CLIP: dict[str, Any] = {
    "media": "video", "width": 64, "height": 48, "fps": 8.0, "duration_s": 2.5, "span_start_s": None,
    "track": str(Track(0, "pts", 1 / 8)), "clip_id": "c", "stages": None, "stage_failed": None,
}  # fmt: skip


def clip_of(fps: float, count: int) -> dict[str, Any]:
    return CLIP | {"fps": fps, "duration_s": count / fps, "track": str(Track(0, "pts", 1 / fps))}


@given(fps=st.floats(1, 60), target=st.none() | st.floats(1, 60), count=st.integers(1, 300), most=st.integers(1, 20))
def test_clips_have_4n_plus_1_frames_in_order(fps: float, target: float | None, count: int, most: int) -> None:
    config = EncodeLatentsConfig(fps=target, num_frames=4 * most + 1)
    clip = clip_of(fps, count)
    if len(pick_indices([step / (target or fps) for step in range(5)], fps, count)) < 5:
        with pytest.raises(RowError, match="fewer than 5") as caught:
            encode_times(clip, config)
        assert caught.value.reason == Reason.TOO_FEW_FRAMES
        return
    times = encode_times(clip, config)
    assert len(times) % 4 == 1
    assert 5 <= len(times) <= config.num_frames
    assert times == sorted(times)
    assert times[0] == 0
    assert len(pick_indices(times, fps, count)) == len(times)


def test_times_follow_the_target_rate_and_the_span() -> None:
    assert encode_times(CLIP, EncodeLatentsConfig(num_frames=9)) == [step / 8 for step in range(9)]
    assert encode_times(CLIP, EncodeLatentsConfig(fps=4, num_frames=9)) == [step / 4 for step in range(9)]
    assert encode_times(CLIP, EncodeLatentsConfig(fps=16, num_frames=5)) == [step / 16 for step in range(5)]
    short = CLIP | {"span_start_s": 1.0, "duration_s": 1.0}
    assert encode_times(short, EncodeLatentsConfig()) == [step / 8 for step in range(5)]
    assert encode_times(CLIP | {"media": "image"}, EncodeLatentsConfig()) == [0]


def test_a_row_is_planned_from_its_metadata() -> None:
    config = EncodeLatentsConfig(resolution=64, media=("video",))
    planned = plan_row(CLIP | {"width": 640, "height": 360}, config, config.sizes)
    assert planned["bucket"] == "64x32x17"
    with pytest.raises(RowError, match="this stage encodes videos"):
        plan_row(CLIP | {"media": "image"}, config, config.sizes)


def test_a_row_goes_where_its_selection_lets_it() -> None:
    failed = {"large": {"reason": "min_area", "rules": ["min_area"], "detail": "area 3072 below 4096"}}
    row = CLIP | {"stages": ["small"], "stage_failed": json.dumps(failed)}

    def plan(name: str, **changes: Any) -> dict[str, Any]:
        config = EncodeLatentsConfig(name=name, resolution=64, **changes)
        return plan_row(row, config, config.sizes)

    assert plan("small")["bucket"]
    with pytest.raises(RowError) as caught:
        plan("large")
    assert (caught.value.reason, caught.value.detail) == (Reason.MIN_AREA, "area 3072 below 4096")
    assert caught.value.status == Status.FILTERED
    with pytest.raises(RowError, match="this stage encodes images"):
        plan("large", media=("image",))
    with pytest.raises(ValueError, match="says nothing of the latents set 'other'"):
        plan("other")


@given(width=st.integers(20, 300), height=st.integers(20, 300))
def test_the_recorded_crop_is_the_one_that_is_cut(width: int, height: int) -> None:
    rows, columns = np.mgrid[:height, :width]
    frames = np.stack([rows % 256, columns % 256, 0 * rows], axis=-1)[None].astype(np.uint8)
    resized_width, resized_height, left, top = crop_of((width, height), (32, 32))
    assert resize_crop(frames, (32, 32)).shape == (1, 32, 32, 3)
    assert 0 <= left <= resized_width - 32
    assert 0 <= top <= resized_height - 32
    if (resized_width, resized_height) == (width, height):
        assert np.array_equal(resize_crop(frames, (32, 32))[0], frames[0, top : top + 32, left : left + 32])


def test_the_recipe_has_a_name() -> None:
    names = [EncodeLatentsConfig(recipe=name).recipe_id for name in ("whole-clip/1", "released-chunks/1")]
    assert [name.rpartition(":")[0] for name in names] == ["whole-clip/1", "released-chunks/1"]
    # `auto` has no recipe of its own: it is one of the two.
    on_cpu, on_gpu = (EncodeLatentsConfig().on(device).recipe_id for device in ("cpu", "cuda"))
    assert [on_cpu, on_gpu] == [EncodeLatentsConfig(compute_dtype=d).recipe_id for d in ("float32", "bfloat16")]
    assert on_cpu != on_gpu
    assert EncodeLatentsConfig(tiling=True).recipe_id != EncodeLatentsConfig().recipe_id
    # Latents that are stored keep the name they had before there was such a setting.
    named = "whole-clip/1:993c57f82f462bfd"
    assert EncodeLatentsConfig(compute_dtype="float32").recipe_id == named
    assert EncodeLatentsConfig(compression="zstd").recipe_id == EncodeLatentsConfig().recipe_id
    assert EncodeLatentsConfig(fps=8).recipe_id != EncodeLatentsConfig().recipe_id
    assert EncodeLatentsConfig(name="images", media=("image",), seed=1).recipe_id == EncodeLatentsConfig().recipe_id
    with pytest.raises(ValidationError, match="must be 4n \\+ 1"):
        EncodeLatentsConfig(num_frames=32)
    with pytest.raises(ValidationError, match="tiling is for recipe whole-clip/1"):
        EncodeLatentsConfig(tiling=True, recipe="released-chunks/1")


@pytest.mark.parametrize(
    ("device", "setting", "dtype"),
    [("cpu", "auto", torch.float32), ("cuda", "auto", torch.bfloat16), ("cuda", "float32", torch.float32)],
)
def test_networks_are_loaded_as_their_stage_says(
    device: str, setting: Precision, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[Any, ...]] = []
    tiled: list[bool] = []
    vae = SimpleNamespace(enable_tiling=lambda: tiled.append(True))
    monkeypatch.setattr(VideoAutoencoder, "from_pretrained", lambda *given: loaded.append(given) or vae)
    monkeypatch.setattr(TextEncoder, "from_pretrained", lambda *given: loaded.append(given))
    env = Env("", {"vae": "v", "text_encoder": "t"}, device)
    for tiling in (False, True):
        ENCODE_LATENTS_OPERATOR.map(EncodeLatentsConfig(compute_dtype=setting, tiling=tiling), env)  # type: ignore[misc]
        assert tiled == [True] * tiling
    ENCODE_TEXT_OPERATOR.map(EncodeTextConfig(compute_dtype=setting), env)  # type: ignore[misc]
    assert loaded == [("v", device, dtype), ("v", device, dtype), ("t", device, dtype)]


def test_nothing_left_to_encode_is_an_error_that_counts_the_rules() -> None:
    rows = [{"status": "ok"}, *(CLIP | status_not_ok("select", Status.FILTERED, reason, "x") for reason in (
        Reason.MIN_FPS, Reason.MIN_FPS, Reason.MIN_CAPTION
    ))]  # fmt: skip
    assert set_aside(rows) == "Of 4 clips these were set aside: 2 min_fps (select), 1 min_caption (select)"
