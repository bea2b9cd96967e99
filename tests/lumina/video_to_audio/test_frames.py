"""Frames for Synchformer and CLIP: which, how large, and on whole grey levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lumina.video_to_audio.frames import clip_frames, grid_indices, resize, sync_frames
from tests.lumina.vbench.networks.reference_numbers import frames


def test_a_time_gets_the_first_frame_that_begins_then_or_later() -> None:
    stamps = [index / 10 for index in range(10)]
    assert grid_indices(stamps, 5, 5) == [0, 2, 4, 6, 8]
    assert grid_indices(stamps, 25, 6) == [0, 1, 1, 2, 2, 2]
    # What begins a rounding error early is there; after the last one it stays.
    assert grid_indices([0.0, 0.3 - 1e-12, 0.9], 10, 4) == [0, 1, 1, 1]
    assert grid_indices([0.0, 0.1], 10, 4) == [0, 1, 1, 1]
    with pytest.raises(ValueError, match="no frames"):
        grid_indices([], 25, 4)


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (224, 224), (300, 236)])
def test_the_middle_of_any_shape(height: int, width: int) -> None:
    clip = frames(2, height, width)
    found = sync_frames(clip)
    assert found.shape == (2, 3, 224, 224)
    levels = (found + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert (levels.mean() - clip.mean()).abs() < 12


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (48, 48)])
def test_a_smaller_network_sees_a_smaller_middle(height: int, width: int) -> None:
    clip = np.zeros((1, height, width, 3), np.uint8)
    clip[:, height // 2 - 9 : height // 2 + 9, width // 2 - 9 : width // 2 + 9] = 255
    found = sync_frames(clip, 48)
    assert found.shape == (1, 3, 48, 48)
    torch.testing.assert_close(found, found.flip(2), rtol=0, atol=0.02)
    torch.testing.assert_close(found, found.flip(3), rtol=0, atol=0.02)
    assert found[0, 0, 24, 24] == 1
    assert found[0, 0, 0, 0] == -1


def test_clip_sees_a_squashed_square() -> None:
    clip = frames(1, 90, 160)
    found = clip_frames(clip)
    assert found.shape == (1, 3, 384, 384)
    assert torch.equal((found * 255).round().to(torch.uint8), resize(clip, 384, 384))
    same = frames(1, 384, 384)
    assert np.array_equal(resize(same, 384, 384).permute(0, 2, 3, 1).numpy(), same)


def test_what_are_no_frames_is_named() -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\]"):
        sync_frames(np.zeros((0, 8, 8, 3), np.uint8))
