"""The bootstrap covers what it says, finds a real difference, and does not depend on the order of prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.evaluation.subsets import compare, holm, interval, rank_correlation, resample, weighted_mean
from lumina.evaluation.summary import estimates, pivot
from lumina.randomness import generator


def _ids(n: int) -> list[str]:
    return [f"p{i:03d}" for i in range(n)]


def _clustered(rng: np.random.Generator, groups: int, prompts: int, seeds: int) -> np.ndarray:
    """Values [K, P, S]: a prompt effect shared by all groups, one of group and prompt, and noise."""
    shared = rng.normal(size=(1, prompts, 1))
    own = 0.5 * rng.normal(size=(groups, prompts, 1))
    return shared + own + 0.5 * rng.normal(size=(groups, prompts, seeds))


def _shares(rng: np.random.Generator, groups: int, prompts: int, seeds: int, rate: float) -> np.ndarray:
    """Zeros and ones [K, P, S] with the mean `rate`; half of the clips are as right as their prompt is easy."""
    ease, own = rng.random((1, prompts, 1)), rng.random((groups, prompts, seeds))
    return (np.where(rng.random((groups, prompts, seeds)) < 0.5, ease, own) < rate).astype(np.float64)


def test_intervals_cover_at_the_stated_rate() -> None:
    prompts, hits, trials = 16, 0, 1500
    resamples = [resample(_ids(prompts), seed, 800) for seed in range(10)]
    for trial in range(trials):
        values = _clustered(generator(0, "coverage", trial), 1, prompts, 2)[0]
        found = interval(float(values.mean()), weighted_mean(resamples[trial % 10], values), prompts, 0.95)
        hits += found.low <= 0.0 <= found.high
    assert 0.93 <= hits / trials <= 0.97


@pytest.mark.parametrize(("prompts", "rate"), [(16, 0.6), (30, 0.9), (60, 0.98)])
def test_intervals_of_shares_cover_at_the_stated_rate(prompts: int, rate: float) -> None:
    hits, trials = 0, 1500
    resamples = [resample(_ids(prompts), seed, 800) for seed in range(10)]
    for trial in range(trials):
        values = _shares(generator(0, "share coverage", prompts, trial), 1, prompts, 2, rate)[0]
        draws = weighted_mean(resamples[trial % 10], values)
        found = interval(float(values.mean()), draws, prompts, 0.95, (0.0, 1.0))
        hits += found.low <= rate <= found.high
    assert 0.93 <= hits / trials <= 0.975  # shares are discrete: no method hits the rate at every one


@pytest.mark.parametrize(("groups", "prompts"), [(2, 8), (4, 24)])
@pytest.mark.parametrize("rate", [None, 0.6])
def test_equal_groups_are_rarely_called_different(groups: int, prompts: int, rate: float | None) -> None:
    wrong, missed, trials = 0, 0, 1000
    resamples = [resample(_ids(prompts), seed, 1000) for seed in range(20)]
    names = [f"g{k}" for k in range(groups)]
    for trial in range(trials):
        rng = generator(0, "null", groups, prompts, trial)
        values = _clustered(rng, groups, prompts, 2) if rate is None else _shares(rng, groups, prompts, 2, rate)
        draws = np.stack([weighted_mean(resamples[trial % 20], one) for one in values])
        found = compare(names, values.mean(axis=(1, 2)), draws, prompts, value_range=None if rate is None else (0, 1))
        wrong += len(found.best_set) < groups
        missed += not all(d.low <= 0 <= d.high for d in found.differences)
    assert wrong / trials <= 0.06
    assert missed / trials <= 0.06


def test_all_differences_are_covered_at_once() -> None:
    prompts, hits, trials = 24, 0, 1000
    truth = np.array([0.0, 0.2, 0.5])
    resamples = [resample(_ids(prompts), seed, 1000) for seed in range(20)]
    for trial in range(trials):
        values = _clustered(generator(0, "simultaneous", trial), 3, prompts, 2) + truth[:, None, None]
        draws = np.stack([weighted_mean(resamples[trial % 20], one) for one in values])
        found = compare(["0", "1", "2"], values.mean(axis=(1, 2)), draws, prompts)
        gaps = {d.group: truth[int(found.best)] - truth[int(d.group)] for d in found.differences}
        hits += all(d.low <= gaps[d.group] <= d.high for d in found.differences)
    assert 0.94 <= hits / trials <= 0.98  # those with the best are two of the three pairs


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


@pytest.mark.parametrize(("prompts", "found"), [(4, False), (40, True)])
def test_a_few_prompts_that_all_agree_prove_nothing(prompts: int, found: bool) -> None:
    counts = resample(_ids(prompts), 0, 200)
    right, wrong = np.ones((prompts, 1)), np.zeros((prompts, 1))
    draws = np.stack([weighted_mean(counts, one) for one in (right, wrong)])
    one = compare(["a", "b"], np.array([1.0, 0.0]), draws, prompts, value_range=(0, 1))
    assert one.differences[0].significant is found
    assert (one.differences[0].p <= 0.05) is found
    assert one.differences[0].high == 1
    own = one.intervals["a"]
    assert own.high == 1
    assert own.low == pytest.approx(0.025 ** (1 / prompts))


def test_an_interval_of_a_mean_agrees_with_its_closed_form() -> None:
    # Independent clips and many prompts: Wilson's interval of 70 of 100.
    values = np.repeat([1.0, 0.0], [70, 30])[:, None]
    found = interval(0.7, weighted_mean(resample(_ids(100), 0, 20_000), values), 100, 0.95, (0, 1))
    z, n = 1.984, 99
    centre, reach = (
        (0.7 + z * z / 2 / n) / (1 + z * z / n),
        z * math.sqrt(0.21 / n + z * z / 4 / n / n) / (1 + z * z / n),
    )
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach), abs=2e-3)


def test_p_values_say_what_the_bounds_say() -> None:
    values = _clustered(generator(3, "p"), 4, 30, 2) - np.array([0.0, 0.2, 0.4, 1.0])[:, None, None]
    draws = np.stack([weighted_mean(resample(_ids(30), 0, 2000), one) for one in values])
    found = compare(list("abcd"), values.mean(axis=(1, 2)), draws, 30)
    assert {d.significant for d in found.differences} == {True, False}
    assert all(d.significant == (d.p <= 0.05) for d in found.differences)


def test_holm_takes_the_smallest_first() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


@settings(max_examples=20)
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


def test_strata_take_the_differences_between_them_out_of_the_error() -> None:
    strata = ["a"] * 10 + ["b"] * 30
    values = generator(0, "strata").normal(size=(40, 1)) + np.array([[5.0]] * 10 + [[0.0]] * 30)
    draws = weighted_mean(resample(_ids(40), 0, 20_000, strata), values)
    within = [values[:10].var() * 10, values[10:].var() * 30]
    assert draws.std() == pytest.approx(np.sqrt(sum(within)) / 40, rel=0.03)
    assert draws.std() < weighted_mean(resample(_ids(40), 0, 20_000), values).std() / 1.5


def test_figures_of_prompts_with_strata_are_resampled_within_them() -> None:
    name = "offline/temporal_flicker"
    rows = [
        {"prompt_id": f"p{index:02d}", "sample": 0, "stratum": "ab"[index % 2], name: 0.9 - 0.5 * (index % 2)}
        for index in range(40)
    ]
    within, apart = (
        estimates(pivot(some, [name], "here"), [name], 0, 200)[name]
        for some in (rows, [row | {"stratum": None} for row in rows])
    )
    assert within.value == apart.value == pytest.approx(0.65)
    assert within.draws.std() < 1e-9 < 0.02 < apart.draws.std()


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
