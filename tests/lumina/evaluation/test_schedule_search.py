"""The search switches scales where their losses part, and no schedule of the same cost has less excess error."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from lumina.evaluation.schedule_search import best_arm, excess_errors, front, within
from lumina.flow_matching.schedules import value_at
from lumina.models.config import PatchSize

FINE, MIDDLE, COARSE = (1, 2, 2), (2, 2, 2), (2, 4, 4)
GRID = [k / 6 for k in range(7)]
COSTS = {FINE: [10.0] * 6, MIDDLE: [4.0] * 6, COARSE: [1.0] * 6}
BINS = 20


def _losses(parts: dict[PatchSize, float]) -> dict[PatchSize, dict[int, float]]:
    """Each scale is as good as the finest until its t, and loses more and more from there."""
    return {
        patch: {index: 0.2 + max(0.0, (index + 0.5) / BINS - t) for index in range(BINS)} for patch, t in parts.items()
    }


def test_it_switches_where_the_losses_part() -> None:
    errors = excess_errors(_losses({FINE: 1.0, MIDDLE: 0.6, COARSE: 0.3}), BINS, GRID[:-1])
    found = front(errors, COSTS, GRID)
    free = next(one for one in found if one.excess < 1e-12)
    assert [value_at(free.patches, t) for t in GRID[:-1]] == [COARSE, COARSE, MIDDLE, MIDDLE, FINE, FINE]
    assert free.cost == pytest.approx(30 / 60)
    assert found[0].patches == ((0.0, COARSE),)
    costs, excess = [one.cost for one in found], [one.excess for one in found]
    assert costs == sorted(costs)
    assert excess == sorted(excess, reverse=True)
    assert within(found, 0.5) == free
    assert within(found, 1.0) == free
    with pytest.raises(ValueError, match=r"the cheapest costs 0\.100"):
        within(found, 0.05)


def test_it_is_exact_over_all_schedules_that_never_go_back() -> None:
    rng = np.random.default_rng(3)
    errors = {FINE: np.zeros(6), MIDDLE: rng.random(6), COARSE: rng.random(6) * 2}
    found = front(errors, COSTS, GRID)
    order = [COARSE, MIDDLE, FINE]
    for budget in (0.2, 0.35, 0.5, 0.8):
        every = [
            sum((GRID[k + 1] - GRID[k]) * errors[order[s]][k] for k, s in enumerate(path))
            for path in product(range(3), repeat=6)
            if list(path) == sorted(path) and sum(COSTS[order[s]][k] for k, s in enumerate(path)) <= 60 * budget + 1e-9
        ]
        assert within(found, budget).excess == pytest.approx(min(every))


def test_a_bin_without_samples_is_between_its_neighbours_and_a_coarse_scale_is_never_better() -> None:
    losses = {FINE: {0: 1.0, 19: 1.0}, COARSE: {0: 0.5, 10: 2.0}}
    errors = excess_errors(losses, BINS, [0.025, 0.275, 0.9])
    assert errors[COARSE].tolist() == pytest.approx([0.0, 0.25, 1.0])
    with pytest.raises(ValueError, match="two scales at least"):
        excess_errors({FINE: {0: 1.0}}, BINS, [0.0])
    with pytest.raises(ValueError, match=r"no loss of patch size \(2, 4, 4\)"):
        excess_errors({FINE: {0: 1.0}, COARSE: {}}, BINS, [0.0])


def test_the_best_arm_is_affordable_and_not_significantly_worse() -> None:
    def arm(cost: float, value: float, significant: bool) -> dict[str, Any]:
        gap = {"score": {"value": value - 0.8, "significant": significant}}
        return {"cost": {"relative": cost}, "metrics": {"score": {"value": value}}, "difference": gap}

    content = {
        "arms": {
            "a": arm(0.5, 0.3, True),
            "b": arm(0.6, 0.79, False),
            "c": arm(0.4, 0.79, False),
            "d": arm(0.9, 0.9, True),
        }
    }
    assert best_arm(content, "score", list("abcd"), 1.0) == "d"
    assert best_arm(content, "score", list("abcd"), 0.7) == "c"
    assert best_arm(content, "score", ["a"], 0.7) is None
