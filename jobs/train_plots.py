"""Training curves and the summary of a stage: loss over t (paper Figure 3), loss over steps, means of both ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from curation.control_characters import shown
from lumina.pages.charts import COLORS, Axis, Chart, Line, Points, thinned
from lumina.pages.page import CHARTS, render

IN_NO_DIGEST = True
"""Plots and figures inform: no stage's digest covers them, so no stage is computed again for their sake."""

PAGE = "plots/training.html"

LATE = 0.2
"""Share of the steps, the last ones, over which loss by t is averaged."""

WORSE = 1.1
"""A coarser scale has lost at a t where its loss is this many times that of the finest."""

NOTE = (
    "Loss: running means of the recorded steps; dots: held-out clips. Loss by time and scale is the paper's Figure 3: "
    "the error over t in the last fifth of the steps; a dotted line stands where a coarser scale starts to lose by "
    "more than a tenth."
)

Rows = Sequence[Mapping[str, float]]
"""Lines of a metrics file."""

_WINDOWS = 50


@dataclass(frozen=True)
class _Task:
    name: str
    color: int
    """One per scale of the model, the same in all stages."""
    image: bool
    numbers: int
    """Latent positions in a token: what makes a scale coarse."""


def _tasks(config: Mapping[str, Any]) -> list[_Task]:
    if "media_drop" in config:
        # A video-to-audio model has one task, at one scale.
        return [_Task("sound", 0, image=False, numbers=1)]
    scales = sorted(
        (tuple(one) for one in config.get("model", {}).get("patch_sizes", ())),
        key=lambda patch: (math.prod(patch), patch),
    )
    return [
        _Task(
            str(task["name"]),
            scales.index(tuple(task["patch"])) % COLORS if tuple(task["patch"]) in scales else 0,
            task.get("media") == "image",
            math.prod(task["patch"]),
        )
        for task in config.get("tasks", ())
    ]


def draw(stage: str, rows: Rows, config: Mapping[str, Any], out: Path) -> tuple[str, ...]:
    """Write the page with the charts of a stage under `out`; return its name relative to it."""
    page = render(CHARTS, shown, heading=stage, note=NOTE, charts=charts(stage, rows, config))
    (out / PAGE).parent.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(page, encoding="utf-8")
    return (PAGE,)


def charts(stage: str, rows: Rows, config: Mapping[str, Any]) -> list[Chart]:
    """Loss over steps, and loss over t, of what was measured.

    Args:
        stage: its name.
        rows: lines of its metrics file.
        config: that of the stage, as plain data; unknown models and tasks have no charts.
    """
    tasks = _tasks(config)
    return [chart for chart in (_losses(stage, rows, tasks), _loss_by_t(stage, rows, tasks)) if chart]


def _losses(stage: str, rows: Rows, tasks: Sequence[_Task]) -> Chart | None:
    """Training losses as a running mean over the steps, and those of held-out clips as points."""
    curves = {task.name: _smooth(_series(rows, f"loss/{task.name}")) for task in tasks}
    dots = {task.name: _series(rows, f"val/{task.name}") for task in tasks}
    values = [value for one in (*curves.values(), *dots.values()) for value in one.values() if value > 0]
    if not values:
        return None
    last = max(int(row["step"]) for row in rows)
    label = f"Loss of {stage} over {last} steps: " + "; ".join(
        f"{name} from {one[min(one)]:.3g} to {one[max(one)]:.3g}" for name, one in curves.items() if one
    )
    # Scales differ by factors, and so do the start and the end of a training.
    y = Axis(min(values) / 1.05, max(values) * 1.05, log=True)
    lines = [
        Line(task.name, task.color, _positive(curves[task.name]), task.image, _positive(dots[task.name]))
        for task in tasks
    ]
    return Chart("Loss", label, Axis(0, last, "optimizer step"), y, lines)


def _loss_by_t(stage: str, rows: Rows, tasks: Sequence[_Task]) -> Chart | None:
    """The late loss of every task over t, and where the coarser scales start to lose."""
    from lumina.training.metrics import T_BINS

    bins = late_bins(rows, [task.name for task in tasks])
    values = [value for one in bins.values() for value in one.values() if math.isfinite(value)]
    if not values:
        return None
    lost = _crossings(bins, tasks)
    lines = []
    for task in tasks:
        points = [((index + 0.5) / T_BINS, value) for index, value in sorted(bins[task.name].items())]
        t = lost.get(task.name)
        note = "" if t is None else f"loses from t = {t:g}"
        lines.append(Line(task.name, task.color, points, task.image, mark=t, note=note))
    label = f"Mean squared error of {stage} over t, the last fifth of its steps: " + "; ".join(
        f"{name} {min(one.values()):.3g} to {max(one.values()):.3g}" for name, one in bins.items() if one
    )
    y = Axis(0, max(values) * 1.05)
    return Chart("Loss by time and scale", label, Axis(0, 1, "t (0 noise, 1 data)"), y, lines)


def summary(rows: Rows, config: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean losses of the first and the last tenth of the steps, the last validation, and the pace.

    Besides `train/crossing_t/<task>` for every video task coarser than the finest: see `crossing`; left out where the
    task never loses.
    """
    tasks, steps = _tasks(config), config["steps"]
    first = [row for row in rows if row["step"] <= steps / 10] or rows[:1]
    last = [row for row in rows if row["step"] > steps - steps / 10] or rows[-1:]
    result: dict[str, float] = {"train/steps": steps}
    for task in tasks:
        for name, part in (("first_loss", first), ("last_loss", last)):
            # A task of a small ratio may take no part in a tenth of the steps.
            values = _values(part, f"loss/{task.name}")
            if values:
                result[f"train/{name}/{task.name}"] = fmean(values)
    looks = ({key: row[key] for key in row if key.startswith("val/")} for row in reversed(rows))
    result |= {f"train/{key}": value for key, value in next(filter(None, looks), {}).items()}
    for name in ("seconds_per_step", "tokens_per_second", "data_share", "flops_per_second", "flop_utilisation"):
        values = _values(rows, name)
        if values:
            result[f"train/{name}"] = fmean(values)
    bins = late_bins(rows, [task.name for task in tasks])
    return result | {f"train/crossing_t/{name}": t for name, t in _crossings(bins, tasks).items()}


def late_bins(rows: Rows, tasks: Iterable[str]) -> dict[str, dict[int, float]]:
    """Return the mean squared error per task and t-bin over the last fifth of the steps, each sample counted once."""
    from lumina.training.metrics import mean_bins

    last = max((row["step"] for row in rows), default=0)
    late = [row for row in rows if row["step"] > last * (1 - LATE)]
    return {task: mean_bins(late, task) for task in tasks}


def crossing(finest: Mapping[int, float], coarse: Mapping[int, float]) -> float | None:
    """Return the t from which a coarser scale loses: its loss exceeds `WORSE` times that of the finest.

    Args:
        finest: loss of the finest scale per t-bin.
        coarse: loss of a coarser one.

    Since bins are noisy, it is the edge of a bin that has the fewest bins on its wrong side, the smallest of equals; 0
    where the scale loses all along, None where it never does.
    """
    from lumina.training.metrics import T_BINS

    shared = sorted(set(finest) & set(coarse))
    lost = [coarse[index] > WORSE * finest[index] for index in shared]
    wrong = [sum(lost[:edge]) + lost[edge:].count(False) for edge in range(len(lost) + 1)]
    edge = wrong.index(min(wrong))
    return None if edge == len(shared) else shared[edge] / T_BINS if edge else 0.0


def _crossings(bins: Mapping[str, Mapping[int, float]], tasks: Sequence[_Task]) -> dict[str, float]:
    videos = sorted((task for task in tasks if not task.image), key=lambda task: task.numbers)
    coarser = [task for task in videos if task.numbers > videos[0].numbers]
    found = {task.name: crossing(bins[videos[0].name], bins[task.name]) for task in coarser}
    return {name: t for name, t in found.items() if t is not None}


def _values(rows: Rows, key: str) -> list[float]:
    return [row[key] for row in rows if key in row]


def _series(rows: Rows, key: str) -> dict[int, float]:
    return {int(row["step"]): row[key] for row in rows if key in row and math.isfinite(row[key])}


def _smooth(series: Mapping[int, float]) -> dict[int, float]:
    steps = sorted(series)
    size = max(1, -(-len(steps) // _WINDOWS))
    windows = [steps[start : start + size] for start in range(0, len(steps), size)]
    return {round(fmean(window)): fmean(series[step] for step in window) for window in windows}


def _positive(series: Mapping[int, float]) -> Points:
    return [(step, value) for step, value in thinned(series) if value > 0]
