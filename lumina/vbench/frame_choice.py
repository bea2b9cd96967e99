"""Frame sampling of VBench: which frames of a clip a dimension looks at."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np


def middle_frames(count: int, frames: int) -> list[int]:
    """Indices of the middle frames of `count` equal intervals, the last one repeated where there are fewer frames.

    Raises ValueError for a clip without frames.
    """
    if frames < 1:
        raise ValueError("expected a clip of at least one frame")
    intervals = min(count, frames)
    edges = np.linspace(0, frames, intervals + 1).astype(int)
    chosen = [(int(start) + int(end) - 1) // 2 for start, end in pairwise(edges)]
    return chosen + chosen[-1:] * (count - intervals)


def eight_a_second(fps: float) -> int:
    """Stride that leaves about 8 frames a second (dynamic degree); halves are rounded to even: 12 fps gives 2.

    Raises ValueError unless fps is a positive number.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"expected frames per second above 0, got {fps}")
    return max(1, round(fps / 8))
