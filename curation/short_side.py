"""Resizing to a short side, the aspect kept: what a `curation.fitting.Fit` may do where frames are decoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_short_side(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] whose shorter side becomes the smaller one of `size`, by area."""
    import cv2

    height, width = frames.shape[1:3]
    scale = min(size) / min(height, width)
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    if shown == (width, height):
        return frames
    return np.stack([cv2.resize(frame, shown, interpolation=cv2.INTER_AREA) for frame in frames])


def to_short_side_at_most(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """As `to_short_side`; smaller frames stay as they are."""
    return frames if min(frames.shape[1:3]) <= min(size) else to_short_side(frames, size)
