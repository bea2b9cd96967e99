"""Near-duplicates: like hashes are no proof, thumbnails are; and clusters do not depend on the order of pairs."""

from __future__ import annotations

import numpy as np

from curation.frame_hashes import CROPS, MIRROR, TIMES
from curation.hash_lookup import Pairs
from curation.near_duplicates import MOST_DISTANCE, clusters, distances


def test_clips_are_compared_at_the_times_that_both_show() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    film = rng.integers(0, 255, (TIMES + 4, 16, 16, 3), dtype=np.uint8)
    later, mirrored = film[4:], film[:TIMES, :, ::-1]
    clips = np.stack([film[:TIMES], later, mirrored, rng.integers(0, 255, film[:TIMES].shape, dtype=np.uint8)])
    pairs = Pairs(
        *(np.array(one) for one in ([0, 0, 0, 0, 1], [1, 1, 2, 3, 2], [-4, 0, 0, 0, 0], [0, 0, MIRROR, 0, 0]))
    )
    found = distances(pairs, np.array([9, 9, 9, 9], np.int8), lambda some: clips[some])
    assert (found <= MOST_DISTANCE).tolist() == [True, False, True, False, False]
    # Of one that ends after a second, too little is left four times later.
    assert distances(pairs[:1], np.array([5, 9, 9, 9], np.int8), lambda some: clips[some]).tolist() == [np.inf]


def test_a_crop_is_compared_with_what_it_leaves() -> None:
    ramp = np.linspace(0, 255, 160)
    whole, right = (np.stack([part.reshape(16, -1).mean(1)] * 16) for part in (ramp, ramp[16:]))
    clips = np.stack([np.repeat(one[None, ..., None], 9, 0).repeat(3, -1).astype(np.uint8) for one in (whole, right)])
    kinds = np.arange(len(CROPS))
    pairs = Pairs(kinds * 0, kinds * 0 + 1, kinds * 0, kinds)
    found = distances(pairs, np.array([9, 9], np.int8), lambda some: clips[some])
    assert CROPS[int(found.argmin())][1] == 3
    assert found.min() < 0.02 < found[0]


def test_clusters_are_those_of_the_pairs_in_any_order() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    chain = rng.permutation(100)
    first, second = chain[:-1], chain[1:]
    order = rng.permutation(99)
    assert not clusters(100, second[order], first[order]).any()
    assert clusters(4, np.array([3]), np.array([1])).tolist() == [0, 1, 2, 1]
    assert clusters(2, np.array([], int), np.array([], int)).tolist() == [0, 1]
