"""Clip rows of a VBench evaluation: totals and counts of each dimension in a table, and the figures that they give.

A column is named after the figure, `vbench_native/dynamic_degree`, and holds what the clip adds to the total; the one
with `_count` behind it, what it adds to the number. A dimension that does not look at a clip has null there, and one
that leaves it out, 0 and 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import FloatArray
from lumina.vbench.clip_score import ClipScore, prompt_sums
from lumina.vbench.intervals import Figure, Judged, figures
from lumina.vbench.suite_config import TOTALS, figure_of

COUNT = "_count"


@dataclass(frozen=True, eq=False)
class ClipRows:
    """What was said of the clips of one system prompt."""

    judged: Mapping[str, Sequence[Judged]]
    """By figure; totals are none of them."""
    totals: Mapping[str, str]
    """Figure to total."""
    strata: Mapping[str, str]
    """Of every prompt."""
    clips: frozenset[tuple[str, int]]
    """Prompts and indices: two sets with the same are paired."""

    def estimates(self, seed: int, resamples: int) -> dict[str, Estimate]:
        """Every figure with its draws; those of paired sets are from the same prompts."""
        names = {figure: str(figure_of(figure)) for figure in self.judged} | dict(self.totals)
        judged = {str(figure_of(figure)): clips for figure, clips in self.judged.items()}
        found = figures(judged, self.strata, seed, resamples)
        return {figure: estimate_of(found[name]) for figure, name in names.items() if name in found}

    def prompt_values(self, figure: str) -> FloatArray:
        """Values [P, 1] of single prompts, NaN where none of their clips counts."""
        clips = self.judged[figure]
        sums, counts = prompt_sums([clip.score for clip in clips], [clip.prompt for clip in clips])
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)[:, None]


def estimate_of(figure: Figure) -> Estimate:
    """The figure as other metrics have theirs."""
    return Estimate(figure.value, figure.draws, figure.prompts, figure.bounds)


def clip_columns(figure: str, score: ClipScore | None) -> dict[str, float | int | None]:
    """The two columns of a clip; None is a clip without a score."""
    return {
        figure: None if score is None else score.total,
        f"{figure}{COUNT}": None if score is None else score.count,
    }


def read_clip_rows(rows: Iterable[Mapping[str, Any]], metrics: Iterable[str]) -> ClipRows:
    """Arrange rows (prompt, sample, stratum, columns of the metrics) by dimension.

    Args:
        rows: in any order.
        metrics: names of figures; others than VBench's are left aside.
    """
    ordered = sorted(rows, key=lambda row: (str(row["prompt"]), int(row["sample"])))
    names = {metric: name for metric in metrics if (name := figure_of(metric)) is not None}
    return ClipRows(
        {
            metric: [
                Judged(row["prompt"], ClipScore(row[metric], int(row[f"{metric}{COUNT}"])))
                for row in ordered
                if row[metric] is not None
            ]
            for metric, name in names.items()
            if name not in TOTALS
        },
        {metric: name for metric, name in names.items() if name in TOTALS},
        {row["prompt"]: row["stratum"] for row in ordered},
        frozenset((str(row["prompt"]), int(row["sample"])) for row in ordered),
    )


def are_unlike(metrics: Iterable[str]) -> bool:
    """Whether figures must be standardised before they are weighed: unless there is one, or all are totals.

    Raises ValueError for a total among dimensions: it has no values of single prompts.
    """
    names = list(metrics)
    totals = [name for name in names if figure_of(name) in TOTALS]
    if totals and len(totals) < len(names):
        raise ValueError(
            f"{totals[0]} is a total of dimensions: it cannot be weighed against single ones; leave it or them out"
        )
    return len(names) > 1 and not totals
