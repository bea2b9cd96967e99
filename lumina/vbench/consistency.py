"""Subject and background consistency: cosine similarity of each frame with the one before and with the first.

s_t = (max(0, cos(f_t, f_{t-1})) + max(0, cos(f_t, f_0))) / 2 for t = 1..T-1; the score is the mean over all pairs of
all clips, so long clips weigh more (VBench, `subject_consistency.py`, one process; several processes average clips).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lumina.vbench.clip_score import ClipScore, of_frames


def consistency(features: NDArray[np.float32]) -> ClipScore:
    """Score of one clip.

    Args:
        features: [T, D] of its frames, of any length.

    Raises ValueError for fewer than two frames, where the official code divides by zero.
    """
    if len(features) < 2:
        raise ValueError(f"consistency needs two frames, the clip has {len(features)}")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    before = np.maximum(0.0, (unit[1:] * unit[:-1]).sum(axis=1))
    first = np.maximum(0.0, unit[1:] @ unit[0])
    return of_frames((before + first) / 2)
