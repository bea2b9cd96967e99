"""What a training stage shows at its end: loss over t (paper Figure 3), loss over steps, and its summary in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lumina.training.stage import TaskConfig, TrainStageConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_NO_DIGEST = True
"""Plots and figures inform: no stage's digest covers them, so no stage is computed again for their sake."""

LOSS_BY_T = "plots/loss_by_t.png"
LOSSES = "plots/losses.png"

LATE = 0.2
"""Share of the steps, the last ones, over which loss by t is averaged."""

WORSE = 1.1
"""A coarser scale has lost at a t where its loss is this many times that of the finest."""

Rows = Sequence[Mapping[str, float]]
"""Lines of a metrics file."""

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
_WINDOWS = 50


def draw(rows: Rows, config: TrainStageConfig, out: Path) -> tuple[str, ...]:
    """Draw the plots of a stage under `out`; return their names relative to it."""
    for name, plot in ((LOSS_BY_T, _plot_loss_by_t), (LOSSES, _plot_losses)):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        plot(rows, config, out / name)
    return LOSS_BY_T, LOSSES


def summary(rows: Rows, config: TrainStageConfig) -> dict[str, float]:
    """Return the mean losses of the first and the last tenth of the steps, the last validation, and the pace.

    Besides `train/crossing_t/<task>` for every video task coarser than the finest: see `crossing`; left out where the
    task never loses.
    """
    tenth = config.steps / 10
    first = [row for row in rows if row["step"] <= tenth] or rows[:1]
    last = [row for row in rows if row["step"] > config.steps - tenth] or rows[-1:]
    result: dict[str, float] = {"train/steps": config.steps}
    for task in config.tasks:
        for name, part in (("first_loss", first), ("last_loss", last)):
            # A task of a small ratio may take no part in a tenth of the steps.
            values = _values(part, f"loss/{task.name}")
            if values:
                result[f"train/{name}/{task.name}"] = fmean(values)
    for key, value in _last_validation(rows).items():
        result[f"train/{key}"] = value
    for name in ("seconds_per_step", "tokens_per_second", "data_share", "flops_per_second", "flop_utilisation"):
        values = _values(rows, name)
        if values:
            result[f"train/{name}"] = fmean(values)
    for name, t in _crossings(rows, config).items():
        result[f"train/crossing_t/{name}"] = t
    return result


def late_bins(rows: Rows, config: TrainStageConfig) -> dict[str, dict[int, float]]:
    """Return the mean squared error per task and t-bin over the last fifth of the steps, each sample counted once."""
    from lumina.training.metrics import mean_bins

    late = [row for row in rows if row["step"] > config.steps * (1 - LATE)]
    return {task.name: mean_bins(late, task.name) for task in config.tasks}


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


def _crossings(rows: Rows, config: TrainStageConfig) -> dict[str, float]:
    videos = sorted((task for task in config.tasks if task.media == "video"), key=_numbers)
    if not videos:
        return {}
    bins = late_bins(rows, config)
    found = {
        task.name: crossing(bins[videos[0].name], bins[task.name])
        for task in videos
        if _numbers(task) > _numbers(videos[0])
    }
    return {name: t for name, t in found.items() if t is not None}


def _numbers(task: TaskConfig) -> int:
    """Latent positions in a token of the task: what makes a scale coarse."""
    return math.prod(task.patch)


def _values(rows: Rows, key: str) -> list[float]:
    return [row[key] for row in rows if key in row]


def _last_validation(rows: Rows) -> dict[str, float]:
    looks = ({key: row[key] for key in row if key.startswith("val/")} for row in reversed(rows))
    return next((look for look in looks if look), {})


def _plot_loss_by_t(rows: Rows, config: TrainStageConfig, path: Path) -> None:
    """Draw the late loss of every task over t, and where the coarser ones start to lose."""
    from lumina.training.metrics import T_BINS

    figure, axes = _figure("Loss by time and scale", "t (0 noise, 1 data)", "mean squared error of the velocity")
    bins, crossings = late_bins(rows, config), _crossings(rows, config)
    for task in config.tasks:
        own = bins[task.name]
        times = [(index + 0.5) / T_BINS for index in own]
        style = _style(task, config)
        axes.plot(times, list(own.values()), marker="o", markersize=3, label=_label(task), **style)
        if task.name in crossings:
            t = crossings[task.name]
            axes.axvline(t, color=style["color"], linestyle=":", linewidth=1, label=f"{task.name} loses from t = {t:g}")
    axes.set_xlim(0, 1)
    _finish(figure, axes, path)


def _plot_losses(rows: Rows, config: TrainStageConfig, path: Path) -> None:
    """Draw the training losses of every task over the steps, as a running mean, and those of held-out clips."""
    from matplotlib.ticker import ScalarFormatter

    held_out = any(key.startswith("val/") for row in rows for key in row)
    title = "Training loss, and that of held-out clips (points)" if held_out else "Training loss"
    figure, axes = _figure(title, "optimizer step", "loss")
    for task in config.tasks:
        style = _style(task, config)
        points = [(row["step"], row[f"loss/{task.name}"]) for row in rows if f"loss/{task.name}" in row]
        size = -(-len(points) // _WINDOWS)
        windows = [points[start : start + size] for start in range(0, len(points), max(size, 1))]
        axes.plot(
            [fmean(step for step, _ in window) for window in windows],
            [fmean(loss for _, loss in window) for window in windows],
            label=_label(task),
            **style,
        )
        looks = [(row["step"], row[f"val/{task.name}"]) for row in rows if f"val/{task.name}" in row]
        if looks:
            axes.plot(
                *zip(*looks, strict=True),
                color=style["color"],
                linestyle="none",
                marker="s" if task.media == "image" else "o",
                markersize=5,
                markeredgecolor="black",
                markeredgewidth=0.5,
                label=f"{task.name}, held out",
            )
    # Scales differ by factors, and so do the start and the end of a training.
    axes.set_yscale("log")
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(ScalarFormatter())
    _finish(figure, axes, path)


def _figure(title: str, x: str, y: str) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, which="both")
    return figure, axes


def _finish(figure: Any, axes: Axes, path: Path) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    figure.savefig(path)


def _style(task: TaskConfig, config: TrainStageConfig) -> dict[str, Any]:
    """One colour per scale of the model, the same in all plots of all stages; images are dashed."""
    place = sorted(config.model.patch_sizes, key=lambda patch: (math.prod(patch), patch)).index(task.patch)
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": "--" if task.media == "image" else "-"}


def _label(task: TaskConfig) -> str:
    return f"{task.name} (patch {task.scale})"
