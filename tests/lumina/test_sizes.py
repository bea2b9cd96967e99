"""Sizes: the released crop lists and pixels, and the frame arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.sizes import (
    best_crop_size,
    check_size,
    crop_sizes,
    generated_latents,
    largest_clip,
    latent_frames,
    num_cells,
    rank_crop_sizes,
    resize_crop,
)
from tests.lumina import golden as fixtures


def test_released_crop_lists(golden: Path) -> None:
    _, definitions = fixtures.read(golden, "F_imgproc")
    lists = {}
    for target, definition in definitions["lists"].items():
        assert num_cells(int(target)) == definition["max_num_patches"]
        lists[int(target)] = crop_sizes(definition["max_num_patches"])
        assert lists[int(target)] == [tuple(size) for size in definition["crop_sizes_w_h"]]
    for definition in definitions["other_arguments"]:
        got = crop_sizes(definition["num_patches"], definition["patch_size"], definition["max_ratio"])
        assert got == [tuple(size) for size in definition["crop_sizes_w_h"]]
    for definition in definitions["var_center_crop_top1"]:
        got_size = best_crop_size(tuple(definition["image_w_h"]), lists[definition["target"]])
        assert got_size == tuple(definition["result_w_h"])
    for definition in definitions["top4_candidates_score_size"]:
        ranked = rank_crop_sizes(tuple(definition["image_w_h"]), lists[definition["target"]])[:4]
        assert ranked == [(score, tuple(size)) for score, size in definition["top4"]]


def test_released_pixels(golden: Path) -> None:
    arrays, _ = fixtures.read(golden, "F_imgproc")
    for i in range(2):
        frame, want = arrays[f"pix{i}.in"].numpy(), arrays[f"pix{i}.out"].numpy()
        size = best_crop_size((frame.shape[1], frame.shape[0]), crop_sizes(9, 8))
        np.testing.assert_array_equal(resize_crop(np.stack([frame, frame]), size)[1], want)


@given(width=st.integers(1, 200), height=st.integers(1, 200), columns=st.integers(1, 4), rows=st.integers(1, 4))
def test_any_picture_fills_any_crop(width: int, height: int, columns: int, rows: int) -> None:
    frames = np.full((1, height, width, 3), 77, np.uint8)
    out = resize_crop(frames, (columns * 8, rows * 8))
    assert out.shape == (1, rows * 8, columns * 8, 3)
    assert (out == 77).all()


@given(st.integers(1, 1000))
def test_frame_counts(frames: int) -> None:
    clip = largest_clip(frames)
    assert frames - 4 < clip <= frames
    assert 4 * (latent_frames(clip) - 1) + 1 == clip


def test_refusals_name_what_fits() -> None:
    with pytest.raises(ValueError, match="near it: 64x32, 64x64"):
        check_size(64, 48)
    check_size(64, 96)
    for frames in (0, 4, 9):
        with pytest.raises(ValueError, match="multiple of 4 from 8 on"):
            generated_latents(frames)
    assert [generated_latents(frames) for frames in (1, 8, 16)] == [1, 2, 4]
    with pytest.raises(ValueError, match=r"4n \+ 1"):
        latent_frames(16)
