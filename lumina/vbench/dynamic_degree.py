"""Dynamic degree: whether enough pairs of frames move, by the longest vectors of RAFT's flow (VBench, same name)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lumina.vbench.flow_length import longest_mean

LONGEST_SHARE, MOVING_LENGTH = 0.05, 6 / 256
_PER_16_FRAMES = 4
LEAST_FRAMES = 3


def pair_score(flow: NDArray[np.float32]) -> float:
    """Mean length of the longest 5 % of the vectors of the flow [2, H, W] over the padded frame, pixels."""
    return longest_mean(flow, LONGEST_SHARE)


def thresholds(shorter_side: int, frames: int) -> tuple[float, int]:
    """Length above which a pair moves (pixels of the frame without padding), and how many pairs must."""
    return MOVING_LENGTH * shorter_side, round(_PER_16_FRAMES * frames / 16)


def is_dynamic(scores: Sequence[float], shorter_side: int, frames: int) -> bool:
    """Whether a clip counts as dynamic.

    Args:
        scores: `pair_score` of neighbours among the frames that were kept.
        shorter_side: pixels of the clip.
        frames: how many were kept (8 a second).

    Raises ValueError for two kept frames, which the official rule calls dynamic whatever they show.
    """
    if frames == LEAST_FRAMES - 1:
        raise ValueError(f"dynamic degree of {frames} frames at 8 a second says nothing: it needs {LEAST_FRAMES}")
    return reaches(scores, *thresholds(shorter_side, frames))


def reaches(scores: Sequence[float], length: float, count: int) -> bool:
    """Whether `count` of the scores exceed `length`; a clip without a pair never does."""
    return bool(scores) and sum(score > length for score in scores) >= count
