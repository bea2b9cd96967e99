"""Banded look-up of perceptual hashes: which clips have frames with nearly the same bits.

The hashes of all whole frames are sorted by their bits from each of four bands on, so that near ones come to lie near
each other, and each hash is compared with its neighbours there alone: time and memory are linear in the clips, however
many look alike. Which are found depends on the hashes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.frame_hashes import HASHED, MIRROR, TIMES

MOST_BITS = 10
"""Bits that the hashes of two frames may differ in."""
MOST_LAG = 4
"""Times that a copy may be shifted by: a second."""
MOST_CLIPS = 90_000_000
"""As many can be told apart in a code of 63 bits."""
_BANDS = (0, 16, 32, 48)
_NEIGHBOURS = 8
"""On either side."""
_CHUNK = 1 << 20
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Clips `first` whose frames, cropped or mirrored, may be those of the clips `second`, `lag` times later."""

    first: Longs
    second: Longs
    lag: Longs
    kind: Longs
    """See `curation.frame_hashes.HASHED`."""

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, which: NDArray[np.bool_] | slice) -> Pairs:
        return Pairs(self.first[which], self.second[which], self.lag[which], self.kind[which])


def candidates(hashes: NDArray[np.uint64]) -> Pairs:
    """Pairs of clips with frames whose hashes are near, each with how they lie; sorted.

    Args:
        hashes: [clips, 81], of each clip those of `HASHED`; 0 is none. ValueError for more than `MOST_CLIPS`.
    """
    clips = len(hashes)
    if clips > MOST_CLIPS:
        raise ValueError(f"near-duplicates are found among {MOST_CLIPS:,} clips at most, and these are {clips:,}")
    whole = np.stack([_once(hashes, column) for column in range(TIMES)], axis=1).reshape(-1)
    entries = np.flatnonzero(whole)
    values = whole[entries]
    found = np.empty(0, np.int64)
    for band in _BANDS if len(entries) else ():
        turned = _turned(values, band)
        order = np.argsort(turned, kind="stable")
        turned, ordered = turned[order], entries[order]
        near = []
        for column in range(len(HASHED)):
            queries = _once(hashes, column)
            starts = range(0, clips, _CHUNK)
            near += [_near(turned, ordered, queries[at : at + _CHUNK], at, band, column, clips) for at in starts]
        found = np.unique(np.concatenate([found, *near]))
    pair, way = np.divmod(found, 1024)
    first, second = np.divmod(pair, max(clips, 1))
    lag, kind = np.divmod(way, 64)
    return Pairs(first, second, lag - MOST_LAG, kind)


def _once(hashes: NDArray[np.uint64], column: int) -> NDArray[np.uint64]:
    """A column, without what equals an earlier hash of the same clip and kind: what stands still is looked up once."""
    once = hashes[:, column].copy()
    for earlier in range(column):
        if HASHED[earlier][1] == HASHED[column][1]:
            once[hashes[:, earlier] == hashes[:, column]] = 0
    return once


def _turned(values: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    turned: NDArray[np.uint64] = values << np.uint64(band) | values >> np.uint64(64 - band) if band else values
    return turned


def _near(
    index: NDArray[np.uint64],
    entries: Longs,
    values: NDArray[np.uint64],
    start: int,
    band: int,
    column: int,
    clips: int,
) -> Longs:
    """Codes of the hashes of one column, of the clips from `start` on, with what is near in the sorted index."""
    rows = np.flatnonzero(values)
    queries = _turned(values[rows], band)
    order = np.argsort(queries, kind="stable")
    # Sorted queries walk through the index instead of jumping in it.
    rows, queries = rows[order], queries[order]
    places = np.searchsorted(index, queries)
    time, kind = HASHED[column]
    found = []
    for away in range(-_NEIGHBOURS, _NEIGHBOURS):
        at = np.clip(places + away, 0, len(index) - 1)
        is_near = np.flatnonzero(np.bitwise_count(index[at] ^ queries) <= MOST_BITS)
        second, later = np.divmod(entries[at[is_near]], TIMES)
        found.append(_codes(rows[is_near] + start, second, later - time, kind, clips))
    return np.unique(np.concatenate(found))


def _codes(first: Longs, second: Longs, lag: Longs, kind: int, clips: int) -> Longs:
    of_two = (first != second) & (np.abs(lag) <= MOST_LAG)
    first, second, lag = first[of_two], second[of_two], lag[of_two]
    if kind in (0, MIRROR):
        # Two whole frames, or one and a mirrored one, lie alike whichever is first.
        turn = first > second
        first, second, lag = np.where(turn, second, first), np.where(turn, first, second), np.where(turn, -lag, lag)
    code: Longs = ((first * clips + second) * 16 + lag + MOST_LAG) * 64 + kind
    return code
