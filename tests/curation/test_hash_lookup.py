"""Banded look-up: near hashes are found wherever their bits differ, whatever the order, in time that is linear."""

from __future__ import annotations

import errno
import os
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation import hash_lookup
from curation.frame_hashes import HASHED, MIRROR, TIMES
from curation.hash_lookup import MOST_BITS, MOST_LAG, HashFile, Pairs
from lumina.faults import MachineError

CLIPS, PLANTED = 600, 60
Hashes = NDArray[np.uint64]


def drawn(clips: int = CLIPS) -> Hashes:
    """Hashes of clips that have nothing in common."""
    rng = np.random.Generator(np.random.Philox(4))
    return rng.integers(1, 1 << 63, (clips, len(HASHED)), dtype=np.uint64)


def altered(values: Hashes, count: int) -> Hashes:
    """With so many bits of each turned."""
    rng = np.random.Generator(np.random.Philox(5))
    turned = [sum(1 << int(bit) for bit in rng.permutation(63)[:count]) for _ in values.reshape(-1)]
    return values ^ np.array(turned, np.uint64).reshape(values.shape)


def candidates(hashes: Hashes, numbers: NDArray[np.int64] | None = None, step: int = 1000) -> Pairs:
    """Of the clips `numbers`, which are added some at a time."""
    numbers, file = np.arange(len(hashes)) if numbers is None else numbers, HashFile(len(hashes))
    for at in range(0, len(hashes), step):
        file.add(numbers[at : at + step], hashes[at : at + step])
    return hash_lookup.candidates(file)


def plainly(hashes: Hashes) -> set[tuple[int, int, int, int]]:
    """The eight neighbours on either side of each hash among all whole frames, sorted from each band on."""
    once = [
        (clip, time, kind, int(row[place]))
        for clip, row in enumerate(hashes)
        for place, (time, kind) in enumerate(HASHED)
        if row[place] and not any(row[one] == row[place] and HASHED[one][1] == kind for one in range(place))
    ]
    pairs = set()
    for band in (0, 16, 32, 48):
        turned = [(value << band | value >> (64 - band)) % (1 << 64) for *_, value in once]
        whole = sorted((value, *one[:2]) for value, one in zip(turned, once, strict=True) if one[2] == 0)
        for value, (clip, time, kind, _) in zip(turned, once, strict=True):
            at = bisect_left(whole, (value,))
            for near, other, later in whole[max(at - 8, 0) : at + 8]:
                lag, ends = later - time, (clip, other)
                if clip == other or abs(lag) > MOST_LAG or (near ^ value).bit_count() > MOST_BITS:
                    continue
                if kind in (0, MIRROR) and clip > other:
                    lag, ends = -lag, (other, clip)
                pairs.add((*ends, lag, kind))
    return pairs


def found(pairs: Pairs) -> set[tuple[int, int, int, int]]:
    return set(zip(*(one.tolist() for one in (pairs.first, pairs.second, pairs.lag, pairs.kind)), strict=True))


@pytest.fixture(scope="module")
def by_chance() -> set[tuple[int, int, int, int]]:
    """Of some 10^8 comparisons of random bits, a few are near."""
    return found(candidates(drawn()))


def test_clips_that_have_nothing_in_common_are_no_pairs(by_chance: set[tuple[int, int, int, int]]) -> None:
    assert len(by_chance) < 5
    assert len(candidates(drawn(0))) == len(candidates(drawn(1))) == 0


def test_copies_are_found_with_how_they_lie(by_chance: set[tuple[int, int, int, int]]) -> None:
    hashes = drawn()
    at = HASHED.index
    planted = set()
    for first in range(0, PLANTED, 3):
        # A later copy, a crop and a mirror image: of each, one frame is near.
        hashes[first + 200, 1] = altered(hashes[first, 3:4], 4)[0]
        hashes[first + 201, 2] = altered(hashes[first + 1, at((0, 7)) : at((0, 7)) + 1], 4)[0]
        hashes[first + 202, 4] = altered(hashes[first + 2, at((4, MIRROR)) : at((4, MIRROR)) + 1], 4)[0]
        planted |= {(first, first + 200, -2, 0), (first + 1, first + 201, 2, 7), (first + 2, first + 202, 0, MIRROR)}
    assert found(candidates(hashes)) - by_chance == planted


def test_frames_too_far_apart_in_bits_or_in_time_are_no_pair(by_chance: set[tuple[int, int, int, int]]) -> None:
    hashes = drawn()
    hashes[1, 0] = altered(hashes[0, :1], 12)[0]
    hashes[3, 8] = hashes[2, 8 - MOST_LAG - 1]
    assert found(candidates(hashes)) <= by_chance


def test_pairs_are_those_of_the_clips_whatever_their_order() -> None:
    hashes = drawn()
    hashes[300:400] = altered(hashes[:100], 5)
    order = np.random.Generator(np.random.Philox(6)).permutation(CLIPS)
    pairs, turned = candidates(hashes), candidates(hashes[order])
    either = [{frozenset(pair) for pair in zip(a.tolist(), b.tolist(), strict=True)} for a, b in (
        (pairs.first, pairs.second), (order[turned.first], order[turned.second]))]  # fmt: skip
    assert either[0] == either[1] >= {frozenset((clip, clip + 300)) for clip in range(100)}


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1 << 32))
def test_candidates_are_those_of_the_plain_rule_in_whatever_order_clips_are_added(
    clips: int, films: int, seed: int
) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    hashes = drawn(films)[rng.integers(0, films, clips)][:, rng.permutation(len(HASHED))]
    hashes[:, rng.integers(1, TIMES)] = hashes[:, 0]
    turned = rng.random((*hashes.shape, 63)) < rng.choice([0, 0.05, 0.1])
    hashes ^= (turned * (np.uint64(1) << np.arange(63, dtype=np.uint64))).sum(axis=-1, dtype=np.uint64)
    hashes[rng.random(hashes.shape) < rng.choice([0, 0.5, 0.95])] = 0
    order = rng.permutation(clips)
    with pytest.MonkeyPatch.context() as patch:
        # Blocks that end between any two entries, as far as prefixes let them.
        patch.setattr(hash_lookup, "_SORTED", int(rng.integers(1, 20)))
        patch.setattr(hash_lookup, "_COMPARED", int(rng.integers(1, 20)))
        pairs = candidates(hashes[order], order, 7)
    assert found(pairs) == plainly(hashes)
    assert len(pairs) == len(found(pairs))


def test_a_thousand_equal_clips_are_connected_by_few_pairs() -> None:
    hashes = np.repeat(drawn(1), 1000, axis=0)
    pairs = candidates(hashes)
    assert len(pairs) < 1000 * 50
    assert set(pairs.second.tolist()) | set(pairs.first.tolist()) == set(range(1000))


def test_more_clips_than_can_be_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_lookup, "MOST_CLIPS", 5)
    with pytest.raises(ValueError, match=r"among 5 clips at most, and these are 600"):
        HashFile(CLIPS)


def test_a_folder_for_temporary_files_that_is_full_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _offset: int, size: int) -> None:
        assert size == 8 * len(HASHED)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MachineError, match=r"TMPDIR\): hashes of frames: No space left on device; free some space"):
        HashFile(1)
