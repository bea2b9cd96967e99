"""From one row per generated clip to the figures of a group with their bootstrap draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.evaluation.metrics import METRICS, Estimate, Metric, estimate
from lumina.evaluation.subsets import Difference, FloatArray, Interval, resample

LEAST_STRATUM = 8
"""Prompts of the smallest stratum. Resamples of n prompts have (n - 1) / n of the variance: too little of a few."""


@dataclass(frozen=True)
class Results:
    """The per-clip values of one group."""

    prompt_ids: tuple[str, ...]
    """Sorted."""
    samples: int
    """Clips of each prompt."""
    columns: Mapping[str, FloatArray]
    """Column name to values [prompts, samples]."""
    strata: tuple[str, ...] | None = None
    """Of each prompt, where prompts are drawn in fixed numbers from each stratum."""


def columns_of(metrics: Iterable[str]) -> tuple[str, ...]:
    """The per-clip columns that these metrics read, sorted."""
    read = (METRICS[name] for name in metrics)
    return tuple(sorted({c for m in read for c in (m.column, m.asked_column) if c is not None}))


def pivot(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], origin: str) -> Results:
    """Arrange rows (prompt_id, sample, one column per value) by prompt and sample.

    Args:
        rows: in any order. Prompts with a `stratum` are resampled within it, if each has `LEAST_STRATUM` of them.
        metrics: keys of METRICS.
        origin: where the rows are from, for messages.

    Raises:
        ValueError: a (prompt, sample) pair is absent or there twice, or there is no row.
    """
    place = {(str(row["prompt_id"]), int(row["sample"])): row for row in rows}
    prompts = sorted({prompt for prompt, _ in place})
    samples = sorted({sample for _, sample in place})
    absent = [(p, s) for p in prompts for s in samples if (p, s) not in place]
    if not rows or absent or len(place) != len(rows):
        what = f"no clip of {absent[0]}" if absent else "no rows" if not rows else "a (prompt, sample) pair twice"
        raise ValueError(f"{origin}: the clips of all prompts and samples are needed, there is {what}")
    columns = {
        name: np.array([[float(place[p, s][name]) for s in samples] for p in prompts]) for name in columns_of(metrics)
    }
    strata = [str(place[prompt, samples[0]].get("stratum") or "") for prompt in prompts]
    many = len(set(strata)) > 1 and min(Counter(strata).values()) >= LEAST_STRATUM
    return Results(tuple(prompts), len(samples), columns, tuple(strata) if many else None)


def estimates(results: Results, metrics: Sequence[str], seed: int, resamples: int) -> dict[str, Estimate]:
    """Every metric's figure and draws. Groups with the same prompts and seed share their resamples: they are paired."""
    return estimates_of(results, {name: METRICS[name] for name in metrics}, seed, resamples)


def estimates_of(results: Results, metrics: Mapping[str, Metric], seed: int, resamples: int) -> dict[str, Estimate]:
    """As `estimates`, of metrics that need not be in METRICS."""
    counts = resample(results.prompt_ids, seed, resamples, results.strata)
    return {name: estimate(metric, results.columns, counts) for name, metric in metrics.items()}


def interval_json(found: Interval | Difference) -> dict[str, float | None]:
    """An interval for a JSON file: rounded to nine decimals, unbounded ends null."""
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {name: round(end, 9) if math.isfinite(end) else None for name, end in ends.items()}
