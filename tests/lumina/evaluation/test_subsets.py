"""The bootstrap covers what it says, finds a real difference, and does not depend on the order of prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.evaluation.subsets import compare, interval, rank_correlation, resample, weighted_mean
from lumina.randomness import generator


def _ids(n: int) -> list[str]:
    return [f"p{i:03d}" for i in range(n)]


def _clustered(rng: np.random.Generator, groups: int, prompts: int, seeds: int) -> np.ndarray:
    """Values [K, P, S]: a prompt effect shared by all groups, one of group and prompt, and noise."""
    shared = rng.normal(size=(1, prompts, 1))
    own = 0.5 * rng.normal(size=(groups, prompts, 1))
    return shared + own + 0.5 * rng.normal(size=(groups, prompts, seeds))


def test_intervals_cover_at_the_stated_rate() -> None:
    prompts, hits, trials = 16, 0, 600
    counts = resample(_ids(prompts), 1, 800)
    for trial in range(trials):
        values = _clustered(generator(0, "coverage", trial), 1, prompts, 2)[0]
        found = interval(float(values.mean()), weighted_mean(counts, values), prompts, 0.95)
        hits += found.low <= 0.0 <= found.high
    assert 0.93 <= hits / trials <= 0.975


def test_equal_groups_are_rarely_called_different() -> None:
    prompts, wrong, trials = 24, 0, 1000
    resamples = [resample(_ids(prompts), seed, 1000) for seed in range(20)]
    for trial in range(trials):
        values = _clustered(generator(0, "null", trial), 4, prompts, 2)
        counts = resamples[trial % 20]
        draws = np.stack([weighted_mean(counts, v) for v in values])
        found = compare(list("abcd"), values.mean(axis=(1, 2)), draws, prompts)
        wrong += len(found.best_set) < 4
    assert wrong / trials <= 0.06


def test_a_known_shift_is_found_and_the_rest_stays() -> None:
    prompts = 60
    values = _clustered(generator(1, "shift"), 3, prompts, 2)
    values[2] -= 1.0
    counts = resample(_ids(prompts), 0, 2000)
    draws = np.stack([weighted_mean(counts, v) for v in values])
    found = compare(["a", "b", "worse"], values.mean(axis=(1, 2)), draws, prompts)
    assert set(found.best_set) == {"a", "b"}
    shifted = next(d for d in found.differences if d.group == "worse")
    assert shifted.significant
    assert shifted.low <= 1.0 <= shifted.high


def test_identical_values_are_never_different_and_an_exact_shift_always_is() -> None:
    values = generator(0, "x").normal(size=(20, 1))
    counts = resample(_ids(20), 0, 500)
    draws = np.stack([weighted_mean(counts, v) for v in (values, values, values - 0.5)])
    means = np.array([values.mean(), values.mean(), values.mean() - 0.5])
    found = compare(["b", "a", "c"], means, draws, 20)
    assert found.best == "a"
    assert found.best_set == ("a", "b")


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_prompts_does_not_matter(order: list[int]) -> None:
    values = generator(0, "order").normal(size=(12, 2))
    asked = np.repeat(generator(0, "asked").integers(0, 2, size=(12, 1)).astype(float), 2, axis=1)
    names = _ids(12)
    counts = resample(names, 0, 50, strata=["s", "t"] * 6)
    shuffled = resample([names[i] for i in order], 0, 50, strata=[["s", "t"][i % 2] for i in order])
    np.testing.assert_array_equal(counts[:, order], shuffled)
    np.testing.assert_allclose(weighted_mean(counts, values), weighted_mean(shuffled, values[order]), rtol=1e-12)
    np.testing.assert_allclose(
        rank_correlation(counts, values, asked),
        rank_correlation(shuffled, values[order], asked[order]),
        rtol=1e-9,
        atol=1e-12,
    )


def test_rank_correlation_agrees_with_ranks_of_the_written_out_resample() -> None:
    rng = generator(5, "spearman")
    values = np.round(rng.normal(size=(10, 2)), 1)
    asked = rng.integers(0, 3, size=(10, 2)).astype(float)
    counts = resample(_ids(10), 0, 20)
    for row, found in zip(counts, rank_correlation(counts, values, asked), strict=True):
        x, y = np.repeat(asked, row, axis=0).ravel(), np.repeat(values, row, axis=0).ravel()
        ranks = [np.array([(v < u).sum() + ((v == u).sum() + 1) / 2 for u in v]) for v in (x, y)]
        assert found == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_unmeasured_clips_weaken_the_rank_correlation() -> None:
    once = np.ones((1, 4), dtype=np.int64)
    asked = np.array([[1.0], [2.0], [3.0], [np.nan]])
    assert rank_correlation(once, np.array([[1.0], [2.0], [3.0], [9.0]]), asked) == pytest.approx([1.0])
    assert rank_correlation(once, np.array([[1.0], [2.0], [np.nan], [9.0]]), asked) == pytest.approx([2 / 3])
    assert rank_correlation(once, np.full((4, 1), np.nan), asked) == pytest.approx([0.0])
    assert rank_correlation(once, np.full((4, 1), 7.0), asked) == pytest.approx([0.0])


def test_strata_keep_their_sizes() -> None:
    strata = ["a"] * 3 + ["b"] * 5
    counts = resample(_ids(8), 0, 40, strata)
    assert (counts[:, :3].sum(axis=1) == 3).all()
    assert (counts[:, 3:].sum(axis=1) == 5).all()


def test_one_prompt_says_nothing() -> None:
    counts = resample(["only"], 0, 10)
    draws = np.stack([weighted_mean(counts, np.array([[v]])) for v in (1.0, 0.0)])
    found = compare(["a", "b"], np.array([1.0, 0.0]), draws, 1)
    assert found.best_set == ("a", "b")
    assert found.intervals["a"].low == -math.inf


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no prompts"):
        resample([], 0, 10)
    with pytest.raises(ValueError, match="more than once"):
        resample(["a", "a"], 0, 10)
    with pytest.raises(ValueError, match="no value to compare for \\['b'\\]"):
        compare(["a", "b"], np.array([1.0, np.nan]), np.ones((2, 3)), 5)
