"""Preparation of frames: sizes, crops, overshoot and padding, each at its border case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lumina.vbench.networks import preprocess
from tests.lumina.vbench.networks.reference_numbers import frames

PREPARATIONS = [
    getattr(preprocess, name) for name in ("dino", "clip_float", "clip_uint8", "clip_pil", "human_action", "raft")
]
Preparation = Callable[..., Tensor]


@pytest.mark.parametrize("prepare", PREPARATIONS)
def test_each_frame_is_prepared_alone(prepare: Preparation) -> None:
    clip = frames(3, 90, 130)
    together = prepare(clip)
    assert together.dtype == torch.float32
    for number in range(3):
        assert torch.equal(together[number], prepare(clip[number : number + 1])[0])


@pytest.mark.parametrize("prepare", PREPARATIONS)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(prepare: Preparation, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\] with T >= 1, got (uint8|float32) \["):
        prepare(wrong)


@pytest.mark.parametrize(
    ("size", "prepared"),
    [
        ((90, 160), (224, 398)),
        ((300, 236), (284, 224)),
        ((224, 227), (224, 227)),
        ((64, 64), (224, 224)),
        ((100, 107), (224, 239)),
    ],
)
def test_dino_sees_the_whole_frame(size: tuple[int, int], prepared: tuple[int, int]) -> None:
    assert preprocess.dino(frames(1, *size)).shape == (1, 3, *prepared)


@pytest.mark.parametrize(("width", "left"), [(225, 0), (226, 1), (227, 2), (228, 2), (229, 2), (231, 4)])
@pytest.mark.parametrize("prepare", [preprocess.clip_float, preprocess.clip_uint8, preprocess.clip_pil])
def test_half_a_pixel_of_a_crop_rounds_to_even(prepare: Preparation, width: int, left: int) -> None:
    clip = np.zeros((1, 224, width, 3), np.uint8)
    clip += np.arange(width, dtype=np.uint8)[:, None]
    red = prepare(clip)[0, 0, 0] * 0.26862954 + 0.48145466
    assert (red * 255).round().tolist() == list(range(left, left + 224))


def test_overshoot_of_bicubic_stays_as_floats_alone() -> None:
    clip = np.zeros((1, 100, 100, 3), np.uint8)
    clip[:, :, 50:] = 255
    white = (1 - 0.48145466) / 0.26862954
    assert preprocess.clip_float(clip)[:, 0].max() > white + 0.1
    for prepare in (preprocess.clip_uint8, preprocess.clip_pil):
        assert prepare(clip)[:, 0].max() == pytest.approx(white, abs=1e-5)
        levels = (prepare(clip)[:, 0] * 0.26862954 + 0.48145466) * 255
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


def test_only_pillow_averages_over_all_pixels_that_become_one() -> None:
    stripes = np.zeros((1, 896, 896, 3), np.uint8)
    stripes[:, :, 1::4] = stripes[:, :, 2::4] = 255
    levels = [
        (prepare(stripes)[:, 0] * 0.26862954 + 0.48145466) * 255
        for prepare in (preprocess.clip_float, preprocess.clip_pil)
    ]
    assert levels[0].min() > 255
    assert levels[1].max() < 200


@pytest.mark.parametrize(
    ("size", "padding"),
    [((130, 150), (1, 1, 3, 3)), ((128, 136), (0, 0, 0, 0)), ((129, 131), (2, 3, 3, 4)), ((135, 143), (0, 1, 0, 1))],
)
def test_borders_are_repeated_for_raft(size: tuple[int, int], padding: tuple[int, int, int, int]) -> None:
    clip = frames(1, *size)
    left, right, top, bottom = padding
    want = np.pad(clip, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")
    assert torch.equal(preprocess.raft(clip), torch.from_numpy(want).permute(0, 3, 1, 2).float())
