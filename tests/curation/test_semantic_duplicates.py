"""Semantic duplicates: like embeddings are connected, all of few clips and nearly all of many, on any machine."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from curation import semantic_duplicates
from curation.near_duplicates import clusters
from curation.semantic_duplicates import SCALE, Embeddings, semantic_pairs, whole_numbers

LIMIT, WIDTH, CLIPS = 0.95, 24, 900


def embedded(clips: int = CLIPS, seed: int = 1) -> Embeddings:
    """Clips of thirty topics, each with a copy of some that turns by less than the limit."""
    rng = np.random.Generator(np.random.Philox(seed))
    topics = rng.standard_normal((30, WIDTH))
    found = topics[rng.integers(0, 30, clips)] + 0.7 * rng.standard_normal((clips, WIDTH))
    copied = clips // 10
    found[clips - copied :] = found[:copied] + 0.05 * rng.standard_normal((copied, WIDTH))
    return np.stack([whole_numbers(one) for one in found])


def exactly(embeddings: Embeddings, limit: float = LIMIT) -> NDArray[np.int64]:
    """Clusters of all pairs, by whole numbers of any size."""
    vectors = embeddings.astype(np.int64)
    length = np.sqrt((vectors**2).sum(axis=1))
    first, second = np.nonzero(vectors @ vectors.T >= limit * length[:, None] * length)
    return clusters(len(vectors), first, second)


def found(embeddings: Embeddings, limit: float = LIMIT) -> NDArray[np.int64]:
    return clusters(len(embeddings), *semantic_pairs(embeddings, limit))


def test_of_few_clips_all_that_are_alike_are_connected() -> None:
    for limit in (0.8, LIMIT, 0.999):
        np.testing.assert_array_equal(found(embedded(), limit), exactly(embedded(), limit))
    assert len(np.unique(exactly(embedded()))) == CLIPS - CLIPS // 10
    for few in (0, 1):
        assert [len(ends) for ends in semantic_pairs(embedded()[:few], LIMIT)] == [0, 0]


def test_of_many_clips_those_in_one_cell_are(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, whole = embedded(), found(embedded())
    monkeypatch.setattr(semantic_duplicates, "MOST_COMPARED", 60)
    assert np.mean(found(embeddings) == whole) > 0.995
    # Whatever is multiplied at once, and however many pairs are held.
    many = semantic_pairs(embeddings, LIMIT)
    monkeypatch.setattr(semantic_duplicates, "_ROWS", 7)
    monkeypatch.setattr(semantic_duplicates, "_PAIRS", 1)
    for one, other in zip(semantic_pairs(embeddings, LIMIT), many, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_thousand_equal_clips_are_connected_by_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_duplicates, "MOST_COMPARED", 100)
    equal = np.repeat(embedded(1), 1000, axis=0)
    first, second = semantic_pairs(equal, LIMIT)
    assert len(first) <= 4 * 1000
    assert not clusters(1000, first, second).any()


class _Asked:
    """Embeddings in a file: how many of them were in memory at a time."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings, self.most = embeddings, 0

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, which: NDArray[np.int64] | slice) -> Embeddings:
        self.most = max(self.most, len(self.embeddings[which]))
        return self.embeddings[which]


def test_of_a_cell_that_has_all_clips_a_part_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MOST_COMPARED": 100, "_ROWS": 32, "_SAMPLED": 1}.items():
        monkeypatch.setattr(semantic_duplicates, name, value)
    equal = _Asked(np.repeat(embedded(1), 1000, axis=0))
    first, second = semantic_pairs(equal, LIMIT)  # type: ignore[arg-type]
    assert not clusters(1000, first, second).any()
    assert equal.most <= 2 * 100


def test_products_of_whole_numbers_are_exact_in_float32() -> None:
    rng = np.random.Generator(np.random.Philox(3))
    for width in (1, 512, 4096):
        some = np.stack(
            [whole_numbers(rng.standard_normal(width)) for _ in range(20)] + [whole_numbers(np.ones(width))]
        )
        exact = some.astype(np.int64) @ some.T.astype(np.int64)
        assert np.abs(some.astype(np.int64)[:, None] * some).sum(axis=-1).max() < 1 << 24
        np.testing.assert_array_equal(some.astype(np.float32) @ some.T.astype(np.float32), exact)
    assert whole_numbers(np.array([0.0, -1e-9])).tolist() == [0, -SCALE]
    for bad in ([0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(ValueError, match="no direction"):
            whole_numbers(np.array(bad))
