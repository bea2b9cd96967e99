"""Motion magnitude: mean length of the longest vectors of an optical flow (VBench, `dynamic_degree.py`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def longest_mean(flow: NDArray[np.float32], share: float) -> float:
    """Mean length, in pixels, of the longest floor(share H W) vectors of a flow [2, H, W].

    NaN where that is none, which is above no threshold: so the official code has it.
    """
    lengths = np.sqrt(flow[0].astype(np.float32) ** 2 + flow[1].astype(np.float32) ** 2).ravel()
    count = math.floor(share * lengths.size)
    if not count:
        return math.nan
    return float(np.partition(lengths, lengths.size - count)[lengths.size - count :].mean(dtype=np.float64))
