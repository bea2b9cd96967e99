"""Peaks of motion in a video: local maxima of the mean length of Farneback's optical flow, as AV-Align takes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Version = Literal["v2025", "v2023"]
"""Of AV-Align's released code: bf0b1e3 of February 2025, or 34d9502 of October 2023."""

LEAST_MOTION = 0.1
"""Pixels: smaller peaks are none in v2025."""
_SAME = 8
"""Decimals of a length: what else two pairs of the same frames may differ in."""

Frames = NDArray[np.uint8]


def flow_magnitude(first: Frames, second: Frames) -> float:
    """Mean length in pixels of the flow from one frame [H, W, 3] to another, RGB."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    flow = cv2.calcOpticalFlowFarneback(grey[0], grey[1], None, 0.5, 3, 15, 3, 5, 1.2, 0)
    lengths = np.hypot(*np.moveaxis(flow.astype(np.float64), -1, 0))
    return round(float(lengths.mean()), _SAME)


def flow_trajectory(frames: Frames, short_side: int | None = None) -> list[float]:
    """Motion from every frame's predecessor to it, in pixels; the first frame has the motion after it, as released.

    Args:
        frames: [T, H, W, 3], T >= 2.
        short_side: pixels to which the short side is brought before, since the lengths grow with it; None leaves the
            frames, as the released code does.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
        raise ValueError(f"motion needs uint8 frames [T, H, W, 3], T >= 2, got {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if short_side is not None and min(height, width) != short_side:
        scale = short_side / min(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    steps = [flow_magnitude(first, second) for first, second in pairwise(frames)]
    return [steps[0], *steps]


def peak_times(trajectory: Sequence[float], fps: float, version: Version = "v2025") -> list[float]:
    """Seconds of the frames that move more than both neighbours; in v2025 by 0.1 pixels at least."""
    least = LEAST_MOTION if version == "v2025" else -1.0
    return [
        index / fps
        for index in range(1, len(trajectory) - 1)
        if trajectory[index - 1] < trajectory[index] > trajectory[index + 1] and trajectory[index] >= least
    ]
