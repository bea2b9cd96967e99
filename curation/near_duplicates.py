"""Near-duplicates: of clips with like hashes, those that show the same all the time; and their clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curation.frame_hashes import CROPS, MIRROR, SIDE, SPANS, TIMES, resampling
from curation.hash_lookup import MOST_LAG, Longs, Pairs

MOST_DISTANCE = 0.14
"""Mean difference of two thumbnails at most, in deviations of the plainer one's pixels. Of
990 clips of Shapes, many of which look alike, no two different ones were nearer than 0.16; their copies mostly are."""
_FLOOR = 4
"""Levels that are added to the deviation: what is nearly plain differs by what encoders do."""
_COMPARED = 12
_CHUNK = 4096
Ints = NDArray[np.integer]
Thumbnails = Callable[[Ints], NDArray[np.uint8]]
"""Of the clips with these numbers, [n, 9, 16, 16, 3]."""


def distances(pairs: Pairs, times: NDArray[np.int8], thumbnails: Thumbnails) -> NDArray[np.float32]:
    """How differently the clips of each pair look at all times that both show; infinite where these are too few.

    Args:
        pairs: candidates.
        times: how many each clip has.
        thumbnails: gives the thumbnails of clips.
    """
    parts = [_distances(pairs[at : at + _CHUNK], times, thumbnails) for at in range(0, len(pairs), _CHUNK)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _distances(pairs: Pairs, times: NDArray[np.int8], thumbnails: Thumbnails) -> NDArray[np.float32]:
    from_first, from_second = np.maximum(-pairs.lag, 0), np.maximum(pairs.lag, 0)
    have_first, have_second = times[pairs.first].astype(np.int64), times[pairs.second].astype(np.int64)
    shared = np.minimum(have_first - from_first, have_second - from_second)
    enough = shared >= np.minimum(TIMES - MOST_LAG, np.minimum(have_first, have_second))
    found = np.full(len(pairs), np.inf, np.float32)
    for kind, lag in sorted(set(zip(pairs.kind[enough].tolist(), pairs.lag[enough].tolist(), strict=True))):
        which = np.flatnonzero(enough & (pairs.kind == kind) & (pairs.lag == lag))
        first = thumbnails(pairs.first[which])[:, max(-lag, 0) :].astype(np.float32)
        second = thumbnails(pairs.second[which])[:, max(lag, 0) :].astype(np.float32)
        count = min(first.shape[1], second.shape[1])
        rows, columns = CROPS[0 if kind == MIRROR else kind]
        if kind == MIRROR:
            first = first[..., ::-1, :]
        first, second = _resampled(first[:, :count], rows, columns), _resampled(second[:, :count], 0, 0)
        is_there = np.arange(count) < shared[which, None]
        difference = np.abs(first - second).mean(axis=(2, 3, 4))
        spread = np.minimum(first.std(axis=(2, 3)).mean(axis=-1), second.std(axis=(2, 3)).mean(axis=-1))
        difference, spread = ((one * is_there).sum(axis=1) / shared[which] for one in (difference, spread))
        found[which] = difference / (_FLOOR + spread)
    return found


def _resampled(frames: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    ends = [(SPANS[one][0] * SIDE, SPANS[one][1] * SIDE) for one in (rows, columns)]
    high, wide = (resampling(low, top, SIDE, _COMPARED) for low, top in ends)
    resampled: NDArray[np.float32] = np.einsum("yh,nthwc,xw->ntyxc", high, frames, wide, optimize=True)
    return resampled


def clusters(count: int, first: Ints, second: Ints) -> Longs:
    """The least number among all that pairs connect each of `count` numbers with, itself included."""
    if not len(first):
        return np.arange(count)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, label = connected_components(pairs, directed=False)
    _, least = np.unique(label, return_index=True)
    found: Longs = least[label].astype(np.int64)
    return found
