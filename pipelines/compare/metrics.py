"""Metrics of two outputs of one stage: curves at equal steps, and figures of evaluations with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.files import read_jsonl
from lumina.training.loop_config import METRICS_FILE
from pipelines.engine.store.manifest import Manifest
from pipelines.errors import StoreError

CURVES = METRICS_FILE
_CLOCK = frozenset(
    {
        "seconds_per_step", "tokens_per_second", "samples_per_second", "flops_per_second", "flop_utilisation",
        "data_share", "seconds_per_clip",
    }
)  # fmt: skip
"""Figures of `lumina.training.clock`, and of a study: they tell of the machine, and never come twice."""

Curve = Mapping[int, Mapping[str, float]]
"""Step -> metric -> value."""


@dataclass(frozen=True)
class CurveDiff:
    """One metric of a training stage, at the steps that both outputs have."""

    stage: str
    metric: str
    steps: int
    """Steps that both have."""
    only_a: int
    only_b: int
    first_step: int | None
    """The first at which they differ; None if they never do."""
    largest: float
    """Largest relative difference, |b - a| / max(|a|, |b|), in 0..2; inf where one is not finite."""
    largest_step: int | None
    last_step: int
    last: tuple[float, float]


@dataclass(frozen=True)
class MetricDiff:
    """One figure of an evaluation, or of a stage, that both runs have."""

    stage: str
    evaluation: str
    """Name of the evaluation; empty for a figure of the stage."""
    metric: str
    values: tuple[float, float]
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None]

    @property
    def moved(self) -> bool:
        """Whether the two values differ; NaN is like NaN."""
        return not _same(*self.values)

    @property
    def outside(self) -> bool | None:
        """Whether each value lies outside the other's interval; None where one has no interval."""
        first, second = self.intervals
        if first is None or second is None:
            return None
        return not first[0] <= self.values[1] <= first[1] and not second[0] <= self.values[0] <= second[1]

    @property
    def size(self) -> float:
        """How far it moved: in half widths of its interval where it has one, else relative to its value."""
        widths = [high - low for low, high in filter(None, self.intervals)]
        scale = max(widths) / 2 if widths and max(widths) > 0 else max(map(abs, self.values))
        move = abs(self.values[1] - self.values[0])
        return 0.0 if not self.moved else move / scale if math.isfinite(move) and scale else math.inf

    def text(self, of: str | None = None) -> str:
        """`metric (evaluation) old -> new`, or `of` in place of the evaluation, with digits that tell them apart."""
        of = self.evaluation if of is None else of
        old, new = (f"{value:.4g}" for value in self.values)
        if old == new:
            old, new = (f"{value:.10g}" for value in self.values)
        return f"{self.metric}{f' ({of})' if of else ''} {old} -> {new}"


def by_clock(metric: str) -> bool:
    """Whether a figure was measured with a clock."""
    return metric.rpartition("/")[2] in _CLOCK


def read_curve(stage: str, output: Path) -> Curve:
    """The curves that a training stage wrote.

    Raises:
        StoreError: a line is damaged; it is named.
    """
    path = output / CURVES
    curve: dict[int, dict[str, float]] = {}
    try:
        points = read_jsonl(path)
    except ValueError as error:
        raise StoreError(f"stage {stage}: {error}") from error
    for number, point in enumerate(points, 1):
        try:
            step = int(point.pop("step"))
            curve[step] = {key: float(value) for key, value in point.items() if not by_clock(key)}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                f"stage {stage}: {path}, line {number}: expected a step and its metrics: {error}"
            ) from error
    return curve


def compare_curves(stage: str, a: Curve, b: Curve) -> tuple[CurveDiff, ...]:
    """Every metric that both have at a common step, sorted by name."""
    metrics = {name for point in a.values() for name in point} & {name for point in b.values() for name in point}
    found = []
    for metric in sorted(metrics):
        first, second = ({step: point[metric] for step, point in curve.items() if metric in point} for curve in (a, b))
        steps = sorted(first.keys() & second.keys())
        if not steps:
            continue
        differ = [step for step in steps if not _same(first[step], second[step])]
        gaps = {step: _relative(first[step], second[step]) for step in differ}
        largest = max(differ, key=lambda step: (gaps[step], -step)) if differ else None
        found.append(
            CurveDiff(
                stage,
                metric,
                len(steps),
                len(first) - len(steps),
                len(second) - len(steps),
                differ[0] if differ else None,
                gaps[largest] if largest is not None else 0.0,
                largest,
                steps[-1],
                (first[steps[-1]], second[steps[-1]]),
            )
        )
    return tuple(found)


def compare_evaluations(a: Manifest, b: Manifest) -> tuple[MetricDiff, ...]:
    """Every figure of the evaluations that both outputs of a stage have.

    They are matched in order, since their names hold the chosen system prompt.
    """
    if len(a.evaluations) != len(b.evaluations):
        names = {one["name"]: one for one in b.evaluations}
        pairs = [(one, names[one["name"]]) for one in a.evaluations if one["name"] in names]
    else:
        pairs = list(zip(a.evaluations, b.evaluations, strict=True))
    return tuple(figure for first, second in pairs for figure in _figures(a.stage, first, second))


def _figures(stage: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[MetricDiff]:
    name = _both_names(stage, a["name"], b["name"])
    first, second = a["metrics"], b["metrics"]
    return [
        MetricDiff(
            stage,
            name,
            key.removeprefix("eval/"),
            (float(first[key]), float(second[key])),
            (_interval(first, key), _interval(second, key)),
        )
        for key in first
        if key in second and not key.startswith("interval/") and not by_clock(key)
    ]


def _both_names(stage: str, a: str, b: str) -> str:
    """The name without what the stage's says already: `train@3` of `web | train@3` in `evaluate@web`."""
    first, second = a.split(" | "), b.split(" | ")
    if len(first) != len(second):
        return a if a == b else f"{a} -> {b}"
    parts = [x if x == y else f"{x} -> {y}" for x, y in zip(first, second, strict=True)]
    variant = stage.partition("@")[2]
    return " | ".join(part for part in parts if part != variant) or a


def _interval(metrics: Mapping[str, float], key: str) -> tuple[float, float] | None:
    low, high = (metrics.get(f"interval/{key.removeprefix('eval/')}_{end}") for end in ("low", "high"))
    return (low, high) if low is not None and high is not None else None


def compare_metrics(a: Manifest, b: Manifest) -> tuple[MetricDiff, ...]:
    """Every summary figure of a stage that both outputs have and no clock measured."""
    return tuple(
        MetricDiff(a.stage, "", key, (a.metrics[key], b.metrics[key]), (None, None))
        for key in sorted(a.metrics.keys() & b.metrics.keys())
        # Evaluations have theirs with intervals.
        if not by_clock(key) and not (a.evaluations and b.evaluations and key.startswith("eval/"))
    )


def largest_moves(figures: Sequence[MetricDiff], most: int) -> list[MetricDiff]:
    """Those that moved most, the largest first."""
    moved = [figure for figure in figures if figure.moved]
    return sorted(moved, key=lambda figure: (-figure.size, figure.metric, figure.stage, figure.evaluation))[:most]


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _relative(a: float, b: float) -> float:
    gap = abs(b - a)
    return gap / max(abs(a), abs(b)) if math.isfinite(gap) else math.inf


def unmatched(a: Manifest, b: Manifest) -> tuple[str, ...]:
    """What only one of the outputs has, in words: evaluations, and figures."""
    evaluations = [{str(one["name"]) for one in side.evaluations} for side in (a, b)]
    figures = [set(side.metrics) for side in (a, b)]
    pairs = [("figures", figures)] + (
        [("evaluations", evaluations)] if len(a.evaluations) != len(b.evaluations) else []
    )
    return tuple(
        f"{a.stage}: {kind} only in {letter}: {_first(sorted(only))}"
        for kind, (first, second) in pairs
        for letter, only in (("A", first - second), ("B", second - first))
        if only
    )


def _first(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
