"""Curves of training for the page: positions in percent of the drawing, which the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.diff.figures import CURVES, read_curve
from pipelines.diff.runs import Side
from pipelines.reports.html import thinned

_WINDOWS = 50
_LATE = 0.2
PALETTE = 8


@dataclass(frozen=True)
class Line:
    """One task's curve."""

    name: str
    color: int
    dashed: bool
    points: str
    """Of an SVG `polyline` in a box of 100 x 100."""
    dots: tuple[tuple[float, float], ...] = ()
    """Single points in the same box: the loss of held-out clips."""
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Some lines with their axes; ticks are (percent, text)."""

    title: str
    label: str
    x_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, int], ...] = ()
    """Vertical lines: percent, colour."""


@dataclass(frozen=True)
class Training:
    """The charts of one stage, and what its last points say."""

    stage: str
    losses: Chart | None
    by_t: Chart | None
    """The paper's Figure 3."""


@dataclass(frozen=True)
class _Task:
    name: str
    color: int
    image: bool
    size: int


def training_charts(side: Side) -> list[Training]:
    """The charts of every stage that left curves.

    Raises:
        StoreError: curves cannot be read.
    """
    found = []
    for name, held in side.stages.items():
        path = None if held.output is None else held.output.fetch(CURVES)
        if path is None or not (path / CURVES).is_file():
            continue
        tasks = _tasks((held.recipe or {}).get("config", {}))
        rows: list[Mapping[str, float]] = [{"step": step, **p} for step, p in read_curve(name, path).items()]
        if tasks and rows:
            found.append(Training(name, _losses(name, tasks, rows), _by_t(name, tasks, rows)))
    return found


def _tasks(config: Mapping[str, Any]) -> list[_Task]:
    """The tasks in a training stage's recipe; a scale has one colour in all stages, as in the stage's own plots."""
    scales = sorted((tuple(one) for one in config.get("model", {}).get("patch_sizes", ())), key=_coarseness)
    return [
        _Task(
            str(task["name"]),
            scales.index(tuple(task["patch"])) % PALETTE if tuple(task["patch"]) in scales else 0,
            task.get("media") == "image",
            math.prod(task["patch"]),
        )
        for task in config.get("tasks", ())
    ]


def _coarseness(patch: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return math.prod(patch), patch


def _losses(stage: str, tasks: Sequence[_Task], rows: Sequence[Mapping[str, float]]) -> Chart | None:
    """Training losses as a running mean over the steps, and those of held-out clips as points; logarithmic."""
    series = {task.name: _smooth(_series(rows, f"loss/{task.name}")) for task in tasks}
    dots = {task.name: _series(rows, f"val/{task.name}") for task in tasks}
    values = [value for one in (*series.values(), *dots.values()) for value in one.values() if 0 < value < math.inf]
    if not values:
        return None
    last = max(int(row["step"]) for row in rows)
    low, high = min(values), max(values)
    low, high = math.log(low / 1.05), math.log(high * 1.05)

    def at(step: float, value: float) -> tuple[float, float]:
        return 100 * step / last, 100 * (high - math.log(value)) / (high - low)

    lines = tuple(
        Line(
            task.name,
            task.color,
            task.image,
            _points(at(step, value) for step, value in thinned(series[task.name]) if value > 0),
            tuple(at(step, value) for step, value in sorted(dots[task.name].items()) if value > 0),
        )
        for task in tasks
    )
    ticks = tuple((at(0, value)[1], f"{value:g}") for value in log_ticks(math.exp(low), math.exp(high)))
    label = f"Loss of {stage} over {last} steps: " + "; ".join(
        f"{name} from {one[min(one)]:.3g} to {one[max(one)]:.3g}" for name, one in series.items() if one
    )
    return Chart("Loss", label, "optimizer step", linear_ticks(last), ticks, lines)


def _by_t(stage: str, tasks: Sequence[_Task], rows: Sequence[Mapping[str, float]]) -> Chart | None:
    """The late loss of every task over t, and where the coarser scales start to lose (paper Figure 3)."""
    from jobs.train_plots import crossing
    from lumina.training.metrics import T_BINS, mean_bins

    last = max(row["step"] for row in rows)
    late = [row for row in rows if row["step"] > last * (1 - _LATE)]
    bins = {task.name: mean_bins(late, task.name) for task in tasks}
    values = [value for one in bins.values() for value in one.values() if math.isfinite(value)]
    if not values:
        return None
    top = max(values) * 1.05
    videos = sorted((task for task in tasks if not task.image), key=lambda task: task.size)
    marks, lines = [], []
    for task in tasks:
        lost = None
        if videos and not task.image and task.size > videos[0].size:
            lost = crossing(bins[videos[0].name], bins[task.name])
        if lost is not None:
            marks.append((100 * lost, task.color))
        points = ((100 * (i + 0.5) / T_BINS, 100 * (1 - value / top)) for i, value in sorted(bins[task.name].items()))
        note = f"loses from t = {lost:g}" if lost is not None else ""
        lines.append(Line(task.name, task.color, task.image, _points(points), (), note))
    ticks = tuple((100 * (1 - float(text) / top), text) for _, text in linear_ticks(top))
    x_ticks = tuple((100 * t / 4, f"{t / 4:g}") for t in range(5))
    label = f"Mean squared error of {stage} over t, the last fifth of its steps: " + "; ".join(
        f"{name} {min(one.values()):.3g} to {max(one.values()):.3g}" for name, one in bins.items() if one
    )
    return Chart("Loss by time and scale", label, "t (0 noise, 1 data)", x_ticks, ticks, tuple(lines), tuple(marks))


def _series(rows: Sequence[Mapping[str, float]], key: str) -> dict[int, float]:
    return {int(row["step"]): row[key] for row in rows if key in row and math.isfinite(row[key])}


def _smooth(series: Mapping[int, float]) -> dict[int, float]:
    steps = sorted(series)
    size = max(1, -(-len(steps) // _WINDOWS))
    windows = [steps[start : start + size] for start in range(0, len(steps), size)]
    return {round(fmean(window)): fmean(series[step] for step in window) for window in windows}


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def linear_ticks(high: float) -> tuple[tuple[float, str], ...]:
    """Some round numbers from 0 to `high` > 0."""
    power = 10.0 ** math.floor(math.log10(high / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= high / 5)
    return tuple((100 * n * step / high, f"{n * step:.6g}") for n in range(math.floor(high / step + 1e-9) + 1))


def log_ticks(low: float, high: float) -> list[float]:
    """Between 2 and some 6 round numbers in [low, high], of 1, 2, 5 times powers of ten; finer where these are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(n / 10 for n in range(10, 100, 2))):
        found = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(found) >= 3:
            return found if len(found) <= 7 else found[:: -(-len(found) // 7)]
    return [low, high]
