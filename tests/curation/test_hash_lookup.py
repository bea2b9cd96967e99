"""Banded look-up: near hashes are found wherever their bits differ, whatever the order, in time that is linear."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from curation import hash_lookup
from curation.frame_hashes import HASHED, MIRROR
from curation.hash_lookup import MOST_LAG, Pairs, candidates

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


def test_a_thousand_equal_clips_are_connected_by_few_pairs() -> None:
    hashes = np.repeat(drawn(1), 1000, axis=0)
    pairs = candidates(hashes)
    assert len(pairs) < 1000 * 50
    assert set(pairs.second.tolist()) | set(pairs.first.tolist()) == set(range(1000))


def test_more_clips_than_can_be_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_lookup, "MOST_CLIPS", 5)
    with pytest.raises(ValueError, match=r"among 5 clips at most, and these are 600"):
        candidates(drawn())
