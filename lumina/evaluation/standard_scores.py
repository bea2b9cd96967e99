"""Standard scores (z-scores): figures of unlike spread, made comparable before they are weighed against each other.

A share of clips is 0 or 1 for each, a temporal flicker lies at .95 to .99 on anything that can be watched: their plain
sum is the share. Each figure is therefore taken from its mean over all prompts and groups, in units of the standard
deviation of the prompts' values there. The units belong to the groups that are compared: another group changes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lumina.evaluation.metrics import METRICS, Estimate
from lumina.evaluation.subsets import FloatArray

_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class Scale:
    """Where a figure's values lie, over all prompts and groups."""

    mean: float
    spread: float
    """Standard deviation of the values of single prompts; 0 where all are equal."""

    def standardised(self, estimate: Estimate) -> Estimate:
        """The figure in standard deviations from the mean; 0 where values that are all equal tell nothing."""
        unit = self.spread or 1.0
        values = estimate.values
        if values is not None:
            values = (values[0] - self.mean) / unit, (values[1] - self.mean) / unit
        draws = (estimate.draws - self.mean) / unit
        return Estimate((estimate.value - self.mean) / unit, draws, estimate.units, values)


def scale_of(groups: Sequence[FloatArray]) -> Scale:
    """The scale of one figure, from the values [P, S] of every group; NaN values do not apply.

    Raises:
        ValueError: no value applies.
    """
    prompts = [np.nanmean(row) for values in groups for row in values if not np.isnan(row).all()]
    if not prompts:
        raise ValueError("no value to standardise by: the figure applies to none of the prompts")
    spread = float(np.std(prompts))
    return Scale(float(np.mean(prompts)), spread if spread > _NO_SPREAD * max(1.0, abs(np.mean(prompts))) else 0.0)


def are_unlike(names: Iterable[str]) -> bool:
    """Whether metrics must be standardised before they are weighed: unless all are shares of clips, or correlations.

    Raises:
        ValueError: they must, and one is a correlation, which has no values of single prompts.
    """
    metrics = [METRICS[name] for name in names]
    if len(metrics) < 2 or all(metric.is_share or metric.asked_column is not None for metric in metrics):
        return False
    for metric in metrics:
        if metric.asked_column is not None:
            raise ValueError(
                f"{metric.name} is a correlation over all prompts: it cannot be weighed against figures of single "
                "clips that are no shares; leave it or them out"
            )
    return True
