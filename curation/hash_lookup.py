"""Banded look-up of perceptual hashes: which clips have frames with nearly the same bits.

The hashes of all whole frames are sorted by their bits from each of four bands on, so that near ones come to lie near
each other, and each hash is compared with its neighbours there alone: time and memory are linear in the clips, however
many look alike. Which are found depends on the hashes alone.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.frame_hashes import HASHED, MIRROR, TIMES
from lumina.faults import machine_errors

MOST_BITS = 10
"""Bits that the hashes of two frames may differ in."""
MOST_LAG = 4
"""Times that a copy may be shifted by: a second."""
MOST_CLIPS = 90_000_000
"""As many can be told apart in a code of 63 bits."""
_BANDS = (0, 16, 32, 48)
_NEIGHBOURS = 8
"""On either side."""
_PREFIX = 16
"""Bits by which hashes are put in order first, by counting."""
_SORTED, _COMPARED = 1 << 20, 1 << 15
"""Entries that are sorted, and queries that are compared, at once: the latter with what they read stay in a cache."""
Longs = NDArray[np.int64]
_Hashes = NDArray[np.uint64]
_Ints = NDArray[np.uint32]


@dataclass(frozen=True)
class Pairs:
    """Clips `first` whose frames, cropped or mirrored, may be those of the clips `second`, `lag` times later."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    lag: NDArray[np.int8]
    kind: NDArray[np.int8]
    """See `curation.frame_hashes.HASHED`."""

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, which: NDArray[np.bool_] | slice) -> Pairs:
        return Pairs(self.first[which], self.second[which], self.lag[which], self.kind[which])


class HashFile:
    """The hashes of clips in a temporary file, 648 bytes a clip: column by column, as they are looked up.

    Of hashes of one kind that are equal in one clip only the first is kept: what stands still is looked up once.
    """

    def __init__(self, clips: int) -> None:
        """ValueError for more than `MOST_CLIPS`; MachineError if the folder for temporary files is full."""
        if clips > MOST_CLIPS:
            raise ValueError(f"near-duplicates are found among {MOST_CLIPS:,} clips at most, and these are {clips:,}")
        self.numbers: _Ints = np.empty(clips, np.uint32)
        """Of the clips, in the order in which they were added."""
        self._added = 0
        with _errors():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as this does
            if clips:
                os.posix_fallocate(self._file.fileno(), 0, 8 * len(HASHED) * clips)

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, numbers: NDArray[np.integer], hashes: _Hashes) -> None:
        """Add clips by their numbers: hashes [n, 81], those of `HASHED`; 0 is none."""
        end = self._added + len(numbers)
        self.numbers[self._added : end] = numbers
        for column in range(len(HASHED)):
            with _errors():
                os.pwrite(self._file.fileno(), _once(hashes, column).data, 8 * (column * len(self) + self._added))
        self._added = end

    def column(self, column: int) -> _Hashes:
        """One hash of every clip, in the order of `numbers`."""
        size = 8 * len(self)
        with _errors():
            return np.frombuffer(os.pread(self._file.fileno(), size, column * size), np.uint64)


def _errors() -> AbstractContextManager[None]:
    return machine_errors(f"{tempfile.gettempdir()} (TMPDIR): hashes of frames")


def _once(hashes: _Hashes, column: int) -> _Hashes:
    """A column, without what equals an earlier hash of the same clip and kind."""
    once = hashes[:, column].copy()
    for earlier in range(column):
        if HASHED[earlier][1] == HASHED[column][1]:
            once[hashes[:, earlier] == hashes[:, column]] = 0
    return once


def candidates(hashes: HashFile) -> Pairs:
    """Pairs of clips with frames whose hashes are near, each with how they lie; sorted."""
    found = np.empty(0, np.int64)
    for band in _BANDS:
        index = _index(hashes, band)
        if not len(index.values):
            break
        near = [_near(index, hashes, band, column) for column in range(len(HASHED))]
        del index
        found = np.unique(np.concatenate([found, *near]))
    pair, way = np.divmod(found, 1024)
    del found
    first, second = (one.astype(np.int32) for one in np.divmod(pair, max(len(hashes), 1)))
    lag, kind = (one.astype(np.int8) for one in np.divmod(way, 64))
    return Pairs(first, second, lag - np.int8(MOST_LAG), kind)


@dataclass(frozen=True)
class _Index:
    """Hashes of whole frames from one band on, sorted."""

    values: _Hashes
    entries: _Ints
    """Number of the clip x TIMES + number of the time."""
    starts: Longs
    """Where the values of each prefix begin, [65537]."""


def _index(hashes: HashFile, band: int) -> _Index:
    counts = np.zeros((TIMES, 1 << _PREFIX), np.int64)
    for time in range(TIMES):
        column = hashes.column(time)
        counts[time] = np.bincount(_prefixes(_turned(column[column != 0], band)), minlength=1 << _PREFIX)
    starts = np.concatenate([[0], counts.sum(axis=0).cumsum()])
    values, entries = np.empty(starts[-1], np.uint64), np.empty(starts[-1], np.uint32)
    filled = starts[:-1].copy()
    for time in range(TIMES):
        rows, turned, _ = _in_order(hashes.column(time), band)
        at = np.arange(len(rows)) + np.repeat(filled - (counts[time].cumsum() - counts[time]), counts[time])
        values[at], entries[at] = turned, hashes.numbers[rows] * np.uint32(TIMES) + np.uint32(time)
        filled += counts[time]
    for low, high in _blocks(starts):
        order = np.lexsort((entries[low:high], values[low:high]))
        values[low:high], entries[low:high] = values[low:high][order], entries[low:high][order]
    return _Index(values, entries, starts)


def _blocks(starts: Longs) -> list[tuple[int, int]]:
    """Ranges of whole prefixes, of `_SORTED` entries where no prefix has more."""
    wanted = np.searchsorted(starts, np.arange(0, starts[-1] + _SORTED, _SORTED))
    ends = np.unique(starts[wanted.clip(max=len(starts) - 1)])
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def _in_order(column: _Hashes, band: int) -> tuple[Longs, _Hashes, NDArray[np.uint16]]:
    """Places of the hashes that there are, these from `band` on, and their prefixes, by which they are ordered."""
    rows = np.flatnonzero(column)
    turned = _turned(column[rows], band)
    prefixes = _prefixes(turned)
    order = np.argsort(prefixes, kind="stable")
    return rows[order], turned[order], prefixes[order]


def _turned(values: _Hashes, band: int) -> _Hashes:
    turned: _Hashes = values << np.uint64(band) | values >> np.uint64(64 - band) if band else values
    return turned


def _prefixes(turned: _Hashes) -> NDArray[np.uint16]:
    return (turned >> np.uint64(64 - _PREFIX)).astype(np.uint16)


def _near(index: _Index, hashes: HashFile, band: int, column: int) -> Longs:
    """Codes of the hashes of one column with what is near in the index."""
    # Queries in the order of the index walk through it instead of jumping in it.
    rows, queries, prefixes = _in_order(hashes.column(column), band)
    rows_near, places_near = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for at in range(0, len(rows), _COMPARED):
        some, own = queries[at : at + _COMPARED], rows[at : at + _COMPARED]
        low, high = index.starts[prefixes[at]], index.starts[int(prefixes[at + len(some) - 1]) + 1]
        places = low + np.searchsorted(index.values[low:high], some)
        for away in range(-_NEIGHBOURS, _NEIGHBOURS):
            there = index.values.take(places + away, mode="clip")
            is_near = np.flatnonzero(np.bitwise_count(there ^ some) <= MOST_BITS)
            rows_near.append(own[is_near])
            places_near.append(places[is_near] + away)
    first = hashes.numbers[np.concatenate(rows_near)].astype(np.int64)
    second, later = np.divmod(index.entries.take(np.concatenate(places_near), mode="clip").astype(np.int64), TIMES)
    time, kind = HASHED[column]
    return np.unique(_codes(first, second, later - time, kind, len(hashes)))


def _codes(first: Longs, second: Longs, lag: Longs, kind: int, clips: int) -> Longs:
    of_two = (first != second) & (np.abs(lag) <= MOST_LAG)
    first, second, lag = first[of_two], second[of_two], lag[of_two]
    if kind in (0, MIRROR):
        # Two whole frames, or one and a mirrored one, lie alike whichever is first.
        turn = first > second
        first, second, lag = np.where(turn, second, first), np.where(turn, first, second), np.where(turn, -lag, lag)
    code: Longs = ((first * clips + second) * 16 + lag + MOST_LAG) * 64 + kind
    return code
