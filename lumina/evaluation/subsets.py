"""Which groups are best: a paired bootstrap over prompts, with intervals that hold for all comparisons at once.

Every group (a system prompt, a checkpoint) is measured on the same P prompts with the same S initial noises, so the
values of one prompt belong together: the prompt is the unit that is resampled, its S values travel with it, and one
resample takes the same prompts from every group. A reducer (a mean, a rank correlation) is computed again in each
resample, because the interval of a correlation is not the interval of its terms.

Groups are compared by their differences, studentised by the bootstrap's standard error, against the quantile of the
largest |T| over *all* pairs (Westfall and Young 1993; Romano and Wolf 2005). All pairs and not only those with the
best, because the best was picked from the same numbers. Few prompts make a bootstrap too narrow; the expansion of
Hesterberg ("What Teachers Should Know About the Bootstrap", 2015, section 4.2) corrects it to first order. They also
make its tails too light, so the critical value is never below that of normal differences of the same covariance.

Percentiles of a share near 0 or 1 miss too often, so the mean of values with a known range has the score interval of
Wilson (1927), for as many independent values as would give the bootstrap's standard error. A sample without any spread
(every clip is right) has a bootstrap without any either, and an interval of no width. But n prompts that agree only
say that others are rare: with probability 1 - a, at most 1 - a^(1/n) of all; with a range, that bounds the mean.
`benchmarks/bootstrap.py` holds all this against simulated data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lumina.randomness import generator

FloatArray = NDArray[np.float64]
Range = tuple[float, float]
"""The least and the largest value that can be."""

_Number = TypeVar("_Number", float, FloatArray)
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; infinite bounds where one prompt is all there is."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How far `group` lies below the best one: `value` = best - group, with bounds that hold for all pairs at once."""

    group: str
    value: float
    low: float
    high: float
    significant: bool
    """The simultaneous lower bound is above zero: the group is worse."""
    p: float
    """Of a difference this large somewhere among all pairs, were all groups equal; in 0..1."""


@dataclass(frozen=True)
class Contrast:
    """How far `group` lies from a reference: `value` = group - reference, bounds for all groups at once."""

    group: str
    value: float
    low: float
    high: float
    significant: bool
    """Zero is outside the simultaneous bounds."""
    p: float
    """Of a difference this large somewhere among all groups, were all equal to the reference; in 0..1."""


@dataclass(frozen=True)
class Comparison:
    """The groups side by side."""

    best: str
    """The largest value; of equal values, the first name."""
    best_set: tuple[str, ...]
    """Every group that is not significantly worse than the best, sorted by value, then name."""
    intervals: dict[str, Interval]
    """Each group alone: pointwise percentile intervals."""
    differences: tuple[Difference, ...]
    """The best against every other group."""
    critical: float
    """The multiple of the standard error that the simultaneous bounds use."""
    confidence: float


def resample(
    prompt_ids: Sequence[str], seed: int, resamples: int, strata: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Draw bootstrap resamples of the prompts: counts int64 [B, P], how often each prompt was drawn.

    Args:
        prompt_ids: P distinct names. The draw belongs to the name: another order permutes the columns.
        seed: of the keyed generator.
        resamples: B, at least 1.
        strata: P names; each stratum keeps its number of prompts in every resample. None is one stratum.

    Raises:
        ValueError: no prompts, a name twice, or strata of another length.
    """
    if not prompt_ids:
        raise ValueError("cannot resample: there are no prompts")
    if len(set(prompt_ids)) != len(prompt_ids):
        twice = sorted({p for p in prompt_ids if list(prompt_ids).count(p) > 1})
        raise ValueError(f"prompt ids must be distinct; more than once: {twice[:3]}")
    names = ["all"] * len(prompt_ids) if strata is None else list(strata)
    if len(names) != len(prompt_ids):
        raise ValueError(f"strata must name one stratum for each of the {len(prompt_ids)} prompts, got {len(names)}")
    counts = np.zeros((resamples, len(prompt_ids)), dtype=np.int64)
    for stratum in sorted(set(names)):
        members = [i for i, name in enumerate(names) if name == stratum]
        members.sort(key=lambda i: prompt_ids[i])
        rng = generator(seed, "bootstrap", stratum)
        n = len(members)
        counts[:, members] = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples)
    return counts


def weighted_mean(counts: NDArray[np.int64], values: FloatArray) -> FloatArray:
    """Mean of values [P, S] under each row of counts [B, P]; NaN values do not apply and are left out. Returns [B].

    NaN where a resample holds no value at all.
    """
    applies = ~np.isnan(values)
    total = counts @ np.where(applies, values, 0.0).sum(axis=1)
    number = counts @ applies.sum(axis=1)
    return np.divide(total, number, out=np.full(len(counts), np.nan), where=number > 0)


def _weighted_midranks(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Mid-ranks of values [n] in samples that hold value i weights[b, i] times. Returns [B, n]."""
    _, group = np.unique(values, return_inverse=True)
    sums = np.zeros((len(weights), int(group.max()) + 1))
    for column in range(weights.shape[1]):
        sums[:, group[column]] += weights[:, column]
    below = np.cumsum(sums, axis=1) - sums
    return (below + (sums + 1.0) / 2.0)[:, group]


def rank_correlation(counts: NDArray[np.int64], values: FloatArray, asked: FloatArray) -> FloatArray:
    """Spearman's rho between asked and measured values, times the share that could be measured. Returns [B].

    A clip that could not be measured shows no association, so it counts as none. Equal values share their mid-rank.
    Constant values order nothing: 0.

    Args:
        counts: [B, P] of `resample`.
        values: measured, [P, S]; NaN = could not be measured.
        asked: asked for, [P, S]; NaN = does not apply (the clip is left out altogether).
    """
    weights = np.repeat(counts, values.shape[1], axis=1).astype(np.float64)
    x, y = asked.ravel(), values.ravel()
    applies = ~np.isnan(x)
    found = applies & ~np.isnan(y)
    number = weights[:, applies].sum(axis=1)
    w = weights[:, found]
    n = w.sum(axis=1)
    if not found.any():
        return np.where(number > 0, 0.0, np.nan)
    rx, ry = _weighted_midranks(w, x[found]), _weighted_midranks(w, y[found])
    centre = ((n + 1.0) / 2.0)[:, None]
    dx, dy = rx - centre, ry - centre
    covariance = (w * dx * dy).sum(axis=1)
    scale = np.sqrt((w * dx * dx).sum(axis=1) * (w * dy * dy).sum(axis=1))
    rho = np.divide(covariance, scale, out=np.zeros(len(w)), where=scale > 0)
    return np.divide(rho * n, number, out=np.full(len(w), np.nan), where=number > 0)


def _student(z: _Number, units: int) -> _Number:
    """Student's t quantile with units-1 degrees of freedom at the tail of z >= 0 (Cornish-Fisher); units at least 2."""
    nu = units - 1
    return z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)


def _without_spread(value: float, values: Range, units: int, tail: float) -> Range:
    """Bounds of the mean where all `units` prompts have this value; each is missed with probability `tail`."""
    others = 1.0 - tail ** (1.0 / units)
    return value - others * (value - values[0]), value + others * (values[1] - value)


def _score_bounds(value: float, values: Range, error: float, t: float) -> Range:
    """Wilson's bounds of a mean of this standard error."""
    span = values[1] - values[0]
    share = (value - values[0]) / span
    # Of what independent zeros and ones would need to be that sure, the inverse.
    weight = t * t * (error / span) ** 2 / (share * (1 - share))
    reach = math.sqrt(weight * share * (1 - share) + weight * weight / 4)
    low, high = ((share + weight / 2 + sign * reach) / (1 + weight) for sign in (-1, 1))
    return values[0] + span * low, values[0] + span * high


def interval(value: float, draws: FloatArray, units: int, confidence: float, values: Range | None = None) -> Interval:
    """The interval of a value: the score interval of a mean of values with a range, else expanded percentiles.

    Args:
        value: the estimate from the sample itself.
        draws: [B] the same in each resample; undefined ones (NaN) are left out.
        units: prompts the value rests on.
        confidence: in (0, 1).
        values: range of the values that it is the mean of; None if it is no mean, or they have no range.

    Raises:
        ValueError: no draw is defined.
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        raise ValueError("no resample gives a value: the metric applies to none of the prompts")
    if units < 2:
        return Interval(value, -math.inf, math.inf)
    if values is not None and np.ptp(defined) <= _NO_SPREAD:
        return Interval(value, *_without_spread(value, values, units, (1 - confidence) / 2))
    t = _student(NormalDist().inv_cdf(0.5 + confidence / 2), units)
    if values is not None:
        return Interval(value, *_score_bounds(value, values, _error(defined, units), t))
    tail = NormalDist().cdf(-math.sqrt(units / (units - 1)) * t)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def compare(
    groups: Sequence[str],
    values: FloatArray,
    draws: FloatArray,
    units: int,
    confidence: float = 0.95,
    value_range: Range | None = None,
) -> Comparison:
    """Compare K groups by one figure, larger being better.

    Args:
        groups: K distinct names.
        values: [K] estimates.
        draws: [K, B] the same in each resample; column b of every group comes from the same prompts.
        units: prompts the figure rests on.
        confidence: of each interval alone, and of all differences together.
        value_range: of the values that the figure is the mean of; None if it is no mean, or they have no range.

    Raises:
        ValueError: no groups, names twice, shapes that do not match, or a value that is not finite.
    """
    if not groups or len(set(groups)) != len(groups):
        raise ValueError(f"compare needs distinct group names, got {list(groups)}")
    if values.shape != (len(groups),) or draws.ndim != 2 or len(draws) != len(groups):
        raise ValueError(f"{len(groups)} groups, but values {values.shape} and draws {draws.shape}")
    if not np.isfinite(values).all():
        bad = [g for g, v in zip(groups, values, strict=True) if not math.isfinite(v)]
        raise ValueError(f"no value to compare for {bad}: a metric applies to none of its prompts")
    draws = draws[:, ~np.isnan(draws).any(axis=0)]
    if not draws.shape[1]:
        raise ValueError("no resample gives every group a value: too few prompts")
    order = sorted(range(len(groups)), key=lambda k: (-values[k], groups[k]))
    pairs = [(i, j) for n, i in enumerate(order) for j in order[n + 1 :]]
    largest = _largest(values, draws, pairs)
    critical = _critical(largest, units, confidence) if pairs else 0.0
    span = _span(value_range)
    best = order[0]
    differences = []
    for j in order[1:]:
        value, error = float(values[best] - values[j]), _error(draws[best] - draws[j], units)
        low, high, p = _bounds(value, error, units, critical, largest, len(pairs), confidence, span)
        differences.append(Difference(groups[j], value, low, high, low > 0, p))
    best_set = (groups[best], *(d.group for d in differences if not d.significant))
    intervals = {groups[k]: interval(float(values[k]), draws[k], units, confidence, value_range) for k in order}
    return Comparison(groups[best], best_set, intervals, tuple(differences), critical, confidence)


def contrasts(
    groups: Sequence[str],
    values: FloatArray,
    draws: FloatArray,
    units: int,
    reference: str,
    confidence: float = 0.95,
    value_range: Range | None = None,
) -> tuple[Contrast, ...]:
    """Every other group against one that was named beforehand, in the order of the groups.

    The largest |T| is over these K - 1 pairs alone, which are fewer than `compare` asks about: the reference was not
    picked by its numbers. Arguments and errors are those of `compare`; ValueError too for an unknown reference.
    """
    if reference not in groups:
        raise ValueError(f"no group {reference!r} to compare with; there are {', '.join(groups)}")
    draws = draws[:, ~np.isnan(draws).any(axis=0)]
    if not np.isfinite(values).all() or not draws.shape[1]:
        raise ValueError("a group has no value to compare: the metric applies to too few prompts")
    base = list(groups).index(reference)
    pairs = [(j, base) for j in range(len(groups)) if j != base]
    if not pairs:
        return ()
    largest = _largest(values, draws, pairs)
    critical, span = _critical(largest, units, confidence), _span(value_range)
    found = []
    for j, _ in pairs:
        value, error = float(values[j] - values[base]), _error(draws[j] - draws[base], units)
        low, high, p = _bounds(value, error, units, critical, largest, len(pairs), confidence, span)
        found.append(Contrast(groups[j], value, low, high, low > 0 or high < 0, p))
    return tuple(found)


def _span(value_range: Range | None) -> Range | None:
    """What a difference of two such values lies between."""
    return None if value_range is None else (value_range[0] - value_range[1], value_range[1] - value_range[0])


def _critical(largest: Sequence[FloatArray], units: int, confidence: float) -> float:
    quantile = max(float(np.quantile(one, confidence)) for one in largest)
    return _student(quantile, units) if units > 1 else math.inf


def _bounds(
    value: float,
    error: float,
    units: int,
    critical: float,
    largest: Sequence[FloatArray],
    pairs: int,
    confidence: float,
    span: Range | None,
) -> tuple[float, float, float]:
    """Bounds of a difference that hold for all `pairs` at once, and its p."""
    if units < 2:
        return -math.inf, math.inf, 1.0
    if error > _NO_SPREAD:
        low, high = value - critical * error, value + critical * error
        if span is not None:
            low, high = max(low, span[0]), min(high, span[1])
        return low, high, max(float(np.mean(_student(one, units) >= abs(value) / error)) for one in largest)
    if span is None:
        return value, value, float(abs(value) <= _NO_SPREAD)
    low, high = _without_spread(value, span, units, (1 - confidence) / 2 / pairs)
    # The tail at which the nearer bound is zero.
    return low, high, min(1.0, 2 * pairs * (1 - abs(value) / (abs(value) - span[0])) ** units)


def _error(draws: FloatArray, units: int) -> float:
    # The bootstrap's variance of a mean of n is (n-1)/n of the unbiased one.
    return float(draws.std()) * math.sqrt(units / max(units - 1, 1))


def _largest(values: FloatArray, draws: FloatArray, pairs: Sequence[tuple[int, int]]) -> list[FloatArray]:
    """[B] the largest |T| of all pairs in each resample, and in as many normal samples of the same covariance."""
    deviations = draws - values[:, None]
    scale, axes = np.linalg.eigh(np.atleast_2d(np.cov(draws)))
    normal = generator(0, "normal differences").standard_normal(draws.shape)
    found = []
    for one in (deviations, (axes * np.sqrt(scale.clip(0.0))) @ normal):
        largest = np.zeros(draws.shape[1])
        for i, j in pairs:
            # Exactly equal groups, or a difference without any spread, tell nothing about the quantile.
            if (spread := float((draws[i] - draws[j]).std())) > _NO_SPREAD:
                np.maximum(largest, np.abs(one[i] - one[j]) / spread, out=largest)
        found.append(largest)
    return found


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P values of several claims, adjusted so that all hold together (Holm 1979); each in 0..1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return tuple(adjusted)
