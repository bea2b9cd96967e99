"""DeSync (av-benchmark): by how many seconds Synchformer finds sound and picture apart.

Synchformer's audio-visual model sorts 14 segments, 4.8 s, into 21 offsets from -2 to 2 s. The score of a clip is the
mean |offset| of its first and its last 14 segments, that of a corpus the mean over clips.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEGMENTS = 14
OFFSETS_S = np.linspace(-2.0, 2.0, 21)
"""Of the classes."""


def ends(features: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """First and last 14 segments of features [n, segments, ...], which may overlap; ValueError for fewer."""
    if features.ndim < 2 or features.shape[1] < SEGMENTS:
        raise ValueError(f"DeSync needs {SEGMENTS} segments of a clip, 4.8 s, got features {list(features.shape)}")
    return features[:, :SEGMENTS], features[:, -SEGMENTS:]


def desync(first: NDArray[np.floating], last: NDArray[np.floating]) -> NDArray[np.float64]:
    """Seconds of each clip, [n] in 0..2, of the logits [n, 21] of its two ends; of equal logits the earlier offset."""
    if first.shape != last.shape or first.ndim != 2 or first.shape[1] != len(OFFSETS_S):
        raise ValueError(f"logits must both be [n, {len(OFFSETS_S)}], got {list(first.shape)} and {list(last.shape)}")
    apart = [np.abs(OFFSETS_S[logits.argmax(1)]) for logits in (first, last)]
    found: NDArray[np.float64] = (apart[0] + apart[1]) / 2
    return found
