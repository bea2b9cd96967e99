"""Frames for Synchformer and CLIP as MMAudio prepares them: a grid of times, and bicubic resizing on whole grey levels.

All take frames [T, H, W, 3], RGB uint8.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.uint8]

SYNC_SIDE = 224
CLIP_SIDE = 384
_TIE_S = 1e-6


def grid_indices(stamps_s: Sequence[float], fps: float, count: int) -> list[int]:
    """Indices of the first frames that begin at k / fps or later, k = 0..count-1; the last frame when there is none.

    MMAudio's rule, which its features were made by; elsewhere in the project `lumina.frame_times` has another.
    """
    if not stamps_s:
        raise ValueError("there are no frames")
    return [min(bisect_left(stamps_s, k / fps - _TIE_S), len(stamps_s) - 1) for k in range(count)]


def sync_frames(frames: Frames, side: int = SYNC_SIDE) -> Tensor:
    """For Synchformer: short side `side` pixels, the middle square, from -1 to 1: float32 [T, 3, side, side]."""
    height, width = frames.shape[1:3]
    size = (int(side * height / width), side) if width <= height else (side, int(side * width / height))
    x = resize(frames, *size)
    # Halves of a pixel round to even.
    top, left = (round((full - side) / 2) for full in size)
    return (x[:, :, top : top + side, left : left + side].float() / 255 - 0.5) / 0.5


def clip_frames(frames: Frames, side: int = CLIP_SIDE) -> Tensor:
    """For CLIP: squashed to a square of `side` pixels, from 0 to 1: float32 [T, 3, side, side]."""
    return resize(frames, side, side).float() / 255


def resize(frames: Frames, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing, rounded to whole levels after each axis: uint8 [T, 3, height, width] on the CPU.

    The same call on floats is off by up to 17 levels.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames must be uint8 [T, H, W, 3] with T >= 1, got {frames.dtype} {list(frames.shape)}")
    x = torch.tensor(frames).permute(0, 3, 1, 2)
    if tuple(x.shape[2:]) == (height, width):
        return x
    return F.interpolate(x.contiguous(), (height, width), mode="bicubic", antialias=True, align_corners=False)
