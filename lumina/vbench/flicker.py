"""Temporal flickering: mean absolute difference of neighbouring frames; and the static filter that goes before it.

score = (255 - mean_t |f_{t+1} - f_t|) / 255 over all pixels and channels at native size (VBench,
`temporal_flickering.py`, `static_filter.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lumina.vbench.dimensions import OFFICIAL_SAMPLES
from lumina.vbench.flow_length import longest_mean

STATIC_SHARE, STATIC_LENGTH = 0.02, 3 / 256
_PER_16_FRAMES = 2


def flicker(frames: NDArray[np.uint8]) -> float:
    """Score of one clip, 0..1, 1 is without any change.

    Args:
        frames: [T, H, W, 3].

    Raises ValueError for fewer than two frames, where the official code gives NaN for all clips.
    """
    if len(frames) < 2:
        raise ValueError(f"temporal flickering needs two frames, the clip has {len(frames)}")
    import cv2

    # Sums of whole numbers, exact.
    differences = [cv2.norm(earlier, later, cv2.NORM_L1) / earlier.size for earlier, later in pairwise(frames)]
    return (255.0 - float(np.mean(differences))) / 255.0


def static_score(flow: NDArray[np.float32]) -> float:
    """Mean length of the longest 2 % of the vectors of a flow [2, H, W], pixels."""
    return longest_mean(flow, STATIC_SHARE)


def is_static(neighbours: Sequence[float], ends: Sequence[float], shorter_side: int, frames: int) -> bool:
    """Whether a clip counts as static.

    Args:
        neighbours: `static_score` from each frame to the next, T - 1.
        ends: of first to last frame and of last to first.
        shorter_side: pixels of the clip.
        frames: T.
    """
    length, allowed = STATIC_LENGTH * shorter_side, round(_PER_16_FRAMES * frames / 16)
    moving = sum(score > length for score in neighbours)
    return moving <= allowed and all(end <= 2 * allowed * length for end in ends)


def first_static(clips: Mapping[str, bool], limit: int | None = OFFICIAL_SAMPLES) -> list[str]:
    """Files of one prompt's static clips that are kept, the first `limit` in order of their names as text.

    So `-10` goes before `-2`: it is the official order.
    """
    return [name for name in sorted(clips) if clips[name]][:limit]
