"""Samples of a training stage on the driver: which steps are whole, their figures with intervals, and who is told."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.files import read_json, replace_file
from lumina.training.sample_config import FOLDER, STEP_FILE, SamplePlan

if TYPE_CHECKING:
    from jobs.context import JobContext
    from lumina.training.samples import Samples

IN_NO_DIGEST = True
"""Clips on the way inform: no stage's digest covers them, so none is trained again for their sake."""

RESAMPLES, CONFIDENCE = 2000, 0.95
"""Of the intervals."""


def open_samples(plan: str | None, work: Path) -> Callable[[int, int], Samples] | None:
    """What a worker's trainer makes on the way: of (rank, world). `plan` is the JSON of a `SamplePlan`, or None."""
    if plan is None:
        return None
    found = SamplePlan.model_validate_json(plan)

    def make(rank: int, world: int) -> Samples:
        from lumina.training.samples import VideoSamples

        return VideoSamples(found, work, rank, world)

    return make


class SampleFollower:
    """Looks for steps whose clips are whole, and tells of each once: of an earlier attempt's, too."""

    def __init__(self, ctx: JobContext) -> None:
        self._ctx = ctx
        self._plan: SamplePlan | None = ctx.aside
        self._folder = ctx.work / FOLDER
        self._told: set[int] = set()

    def tell(self) -> None:
        """Tell of the steps that have become whole."""
        if self._plan is None or not self._folder.is_dir():
            return
        for folder in sorted(self._folder.glob("step-*")):
            step = int(folder.name.removeprefix("step-"))
            if step not in self._told and (found := self._whole(step, self._plan)) is not None:
                self._told.add(step)
                self._ctx.log_metrics(_curves(found["figures"]), step)
                for row in found["rows"]:
                    self._ctx.log_image(_series(row), f"{FOLDER}/{folder.name}/{row['strip']}", step)

    def publish(self) -> None:
        """Copy the steps that are whole into the output."""
        if self._plan is None:
            return
        for folder in sorted(self._folder.glob("step-*")):
            if (folder / STEP_FILE).is_file():
                shutil.copytree(folder, self._ctx.out / FOLDER / folder.name, ignore=shutil.ignore_patterns(".*"))

    def _whole(self, step: int, plan: SamplePlan) -> Mapping[str, Any] | None:
        """The record of a step, written now if all batches have just been made; None before."""
        from lumina.training.sample_config import step_folder
        from lumina.training.samples import read_batch

        batches = [read_batch(self._folder, step, number, plan.key) for number in range(len(plan.batches()))]
        rows = [row for batch in batches for row in batch or ()]
        if any(batch is None for batch in batches):
            return None
        path = self._folder / step_folder(step) / STEP_FILE
        if path.is_file():
            known: Mapping[str, Any] = read_json(path)
            if known["key"] == plan.key:
                return known
        record = {
            "key": plan.key,
            "step": step,
            "fps": plan.fps,
            "rows": [{key: _plain(value) for key, value in row.items()} for row in rows],
            "figures": figures(rows, plan),
        }
        replace_file(path, json.dumps(record, indent=1, allow_nan=False).encode())
        return record


def figures(rows: Sequence[Mapping[str, Any]], plan: SamplePlan) -> dict[str, dict[str, dict[str, float | None]]]:
    """Source -> metric -> value, low and high of its bootstrap interval over the prompts; no figure where none applies.

    Every step and source has the same prompts and the same resamples, so that they are paired.
    """
    from lumina.evaluation.summary import estimates, interval_json, pivot

    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for source in plan.system_prompts:
        own = [{**row, "sample": row["seed"]} for row in rows if row["source"] == source]
        names = [name for name in plan.metrics() if name != "shapes/speed_rank_corr" or _moving(plan) > 1]
        if names:
            measured = estimates(pivot(own, names, source), names, 0, RESAMPLES)
            found[source] = {name: interval_json(one.interval(CONFIDENCE)) for name, one in measured.items()}
    return found


def _moving(plan: SamplePlan) -> int:
    """Prompts that ask for a speed: a rank correlation is one of several."""
    return len({prompt.truth.speed for prompt in plan.prompts if prompt.truth and prompt.truth.direction != "still"})


def _curves(found: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, float]:
    """Points of curves: `sample/<metric>/<source>`, and the ends of its interval under a prefix of their own."""
    points: dict[str, float | None] = {}
    for source, figures in found.items():
        for metric, ends in figures.items():
            points[f"sample/{metric}/{source}"] = ends["value"]
            points[f"sample_interval/{metric}_low/{source}"] = ends["low"]
            points[f"sample_interval/{metric}_high/{source}"] = ends["high"]
    return {name: value for name, value in points.items() if value is not None}


def _series(row: Mapping[str, Any]) -> str:
    """Name of a prompt's row of pictures."""
    noise = f" {row['seed']}" if row["seed"] else ""
    return f"{row['source']}/{row['prompt']}{noise}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
