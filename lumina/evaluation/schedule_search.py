"""Schedule search: at which t to switch from coarse to fine, by the loss of every scale over t that training logs.

A step k of K goes from t_k to t_{k+1} at a scale s_k that costs c_k(s_k) operations. Taken coarser than the finest
scale f, its velocity has the excess error e_k(s) = max(0, L_s(t_k) - L_f(t_k)), where L_s(t) is the logged mean squared
error (paper Figure 3). Of all schedules that go from coarse to fine and never back, those are proposed that minimise

    E = sum_k (t_{k+1} - t_k) e_k(s_k)     subject to     sum_k c_k(s_k) <= budget * sum_k c_k(f),

the integral of the excess error along the path. There are few: K steps and S scales give C(K + S - 1, S - 1), each of
which is counted, so the optimum is exact. E ranks schedules; how good their clips are, a study tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from typing import Any

import numpy as np

from lumina.evaluation.subsets import FloatArray
from lumina.flow_matching.schedules import PatchSchedule
from lumina.models.config import PatchSize


@dataclass(frozen=True)
class Proposal:
    """One schedule."""

    patches: PatchSchedule
    cost: float
    """Share of the finest scale alone, 0..1."""
    excess: float
    """E; 0 for the finest scale alone."""


def excess_errors(
    losses: Mapping[PatchSize, Mapping[int, float]], bins: int, times: Sequence[float]
) -> dict[PatchSize, FloatArray]:
    """e_k(s) of every scale at every time.

    Args:
        losses: scale to mean squared error by bin of t; bins without a sample are left out.
        bins: equal ones in 0..1. Between the middles of those that are known, losses are interpolated.
        times: t_k.

    Raises:
        ValueError: fewer than two scales, or a scale without a loss.
    """
    if len(losses) < 2:
        raise ValueError("a search needs the losses of two scales at least, from one training")
    at: dict[PatchSize, FloatArray] = {}
    for patch, by_bin in losses.items():
        if not by_bin:
            raise ValueError(f"no loss of patch size {patch} was logged")
        known = sorted(by_bin)
        middles = [(index + 0.5) / bins for index in known]
        at[patch] = np.interp(times, middles, [by_bin[index] for index in known])
    finest = at[_ordered(losses)[-1]]
    return {patch: np.maximum(0.0, one - finest) for patch, one in at.items()}


def front(
    errors: Mapping[PatchSize, FloatArray], costs: Mapping[PatchSize, Sequence[float]], grid: Sequence[float]
) -> tuple[Proposal, ...]:
    """The schedules that none beats in both cost and E, the cheapest first.

    Args:
        errors: e_k(s), by scale [K].
        costs: c_k(s), by scale [K], in any unit.
        grid: t_0 to t_K.
    """
    scales, steps = _ordered(errors), len(grid) - 1
    widths = np.diff(np.asarray(grid, dtype=np.float64))
    # Sums up to each step, so that a schedule is a few differences.
    spent = [np.concatenate([[0.0], np.cumsum(costs[scale])]) for scale in scales]
    lost = [np.concatenate([[0.0], np.cumsum(widths * errors[scale])]) for scale in scales]
    found = []
    for switches in combinations_with_replacement(range(steps + 1), len(scales) - 1):
        ends = list(pairwise((0, *switches, steps)))
        cost = sum(float(spent[s][b] - spent[s][a]) for s, (a, b) in enumerate(ends)) / float(spent[-1][-1])
        excess = sum(float(lost[s][b] - lost[s][a]) for s, (a, b) in enumerate(ends))
        found.append((cost, excess, switches))
    best: list[Proposal] = []
    for cost, excess, switches in sorted(found):
        if not best or excess < best[-1].excess:
            best.append(Proposal(_schedule(scales, switches, grid), cost, excess))
    return tuple(best)


def within(proposals: Sequence[Proposal], budget: float) -> Proposal:
    """The one with the least E that costs at most `budget`. ValueError if none does, naming the cheapest."""
    affordable = [one for one in proposals if one.cost <= budget + 1e-9]
    if not affordable:
        raise ValueError(
            f"no schedule costs {budget:g} of the finest scale alone: the cheapest costs {proposals[0].cost:.3f}"
        )
    return affordable[-1]


def best_arm(content: Mapping[str, Any], figure: str, arms: Sequence[str], budget: float) -> str | None:
    """Of some arms of a study the best within a budget that is not significantly below the reference; None if none is.

    By the figure's value; of equals the cheapest. See `lumina.evaluation.study`.
    """
    found = content["arms"]
    good = [
        arm
        for arm in arms
        if found[arm]["cost"]["relative"] <= budget + 1e-9
        and not (found[arm]["difference"][figure]["significant"] and found[arm]["difference"][figure]["value"] < 0)
    ]
    return min(
        good, key=lambda arm: (-found[arm]["metrics"][figure]["value"], found[arm]["cost"]["relative"]), default=None
    )


def _ordered(scales: Mapping[PatchSize, Any]) -> list[PatchSize]:
    """From the coarsest to the finest."""
    return sorted(scales, key=lambda patch: (-math.prod(patch), patch))


def _schedule(scales: Sequence[PatchSize], switches: Sequence[int], grid: Sequence[float]) -> PatchSchedule:
    """Each switch half way between two times of the grid, where rounding of t changes nothing."""
    steps = len(grid) - 1
    pieces: list[tuple[float, PatchSize]] = []
    for scale, (start, end) in zip(scales, pairwise((0, *switches, steps)), strict=True):
        if end > start:
            pieces.append((round((grid[start - 1] + grid[start]) / 2, 6) if start else 0.0, scale))
    return tuple(pieces)
