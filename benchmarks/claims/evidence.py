"""What the claims read: losses by scale, studies and evaluations of a sweep's runs, each a figure for every seed.

All seeds and arms are judged on the same prompts from the same noises, so all of a figure's draws are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.losses import excess, held_out_losses
from benchmarks.demo_seeds import whole_run
from jobs.choose import ChooseConfig
from lumina.evaluation.metrics import METRICS, Estimate, Metric, composite
from lumina.evaluation.study import read_study
from lumina.evaluation.study_arms import patch_name
from lumina.evaluation.subsets import FloatArray
from lumina.evaluation.summary import estimates, estimates_of, pivot
from lumina.training.data.latents import LatentDataset
from lumina.training.stage import TrainStageConfig
from pipelines.compare.runs import Held, Side, read_side
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import SweepRecord
from pipelines.reports.evaluations import Evaluated, read_evaluations

BASE, NONE, MORE = "as they come", "no synthetic", "more synthetic"
"""Arms of `shares.yaml`."""
DEMO = "demo"
"""The arm of the runs that `demo_seeds.py` makes."""
RESAMPLES = 10_000
SPEED = Metric("measured speed", "shapes/measured_speed", "truth", "shorter sides a second, of clips asked to move")
WEIGHTS = ChooseConfig().score


@dataclass(frozen=True)
class SeedRun:
    """A finished run of one arm with one seed."""

    arm: str
    seed: int
    """Of training; of a run of the demo that of its clips."""
    side: Side


@dataclass(frozen=True)
class Losses:
    """Figure 3 of one seed."""

    scales: tuple[str, ...]
    """The finest first."""
    curves: FloatArray
    """Mean squared error [scale, t] over the held-out clips."""
    excess: list[tuple[Estimate, Estimate]]
    """See `benchmarks.claims.losses.excess`."""


@dataclass(frozen=True)
class Studied:
    """One study of one seed."""

    figures: Mapping[str, Mapping[str, Estimate]]
    """By arm: `score`, every metric, and `measured speed`."""
    content: Mapping[str, Any]
    """See `lumina.evaluation.study.read_study`."""


@dataclass(frozen=True)
class Sourced:
    """What one seed tells of the sources."""

    seed: int
    sources: Mapping[str, Estimate]
    """Score under each system prompt, before anything was chosen."""
    found: tuple[str, ...]
    """The subset that was found best, and fine-tuned on."""
    best_set: tuple[str, ...]
    """Sources that cannot be told apart from the best."""
    before: Estimate
    """Score of the trained model under the chosen prompt, on prompts that the choice has not seen."""
    after: Estimate
    """The same after fine-tuning on what was chosen."""


def read_runs(store: Store, sweep: str) -> list[SeedRun]:
    """The runs of a sweep that are done, arm by arm.

    Raises:
        StoreError: there is no such sweep, or a record cannot be read.
    """
    record = SweepRecord.load(store.objects, sweep)
    done = [run for run in record.runs if run.state == "done" and run.run is not None]
    return [SeedRun(run.arm, run.seed or 0, read_side(store, store.get_run(run.run))) for run in done]


def read_demos(work: Path) -> list[SeedRun]:
    """The newest whole run in each store `seed-N` of a folder that `demo_seeds.py` has filled, by seed.

    Raises:
        ValueError: there is no such store, or one has no whole run.
        StoreError: a record cannot be read.
    """
    found = []
    for path in work.glob("seed-*"):
        store = Store(path)
        record = whole_run(store)
        if record is None:
            raise ValueError(f"{path}: no run of the demo has ended: run benchmarks/demo_seeds.py --work {work} again")
        found.append(SeedRun(DEMO, int(path.name.removeprefix("seed-")), read_side(store, record)))
    if not found:
        raise ValueError(f"{work} has no store seed-N: fill it by benchmarks/demo_seeds.py --work {work}")
    return sorted(found, key=lambda run: run.seed)


def of_arm(runs: Sequence[SeedRun], arm: str) -> list[SeedRun]:
    """The runs of one arm, by seed."""
    return sorted((run for run in runs if run.arm == arm), key=lambda run: run.seed)


def losses(run: SeedRun) -> Losses:
    """Measure the loss by scale and t of the trained model's average, on its held-out clips."""
    trained = [held for name, held in run.side.stages.items() if name.startswith("train@")][-1]
    given = (trained.recipe or {})["config"]
    config = TrainStageConfig.model_validate({k: v for k, v in given.items() if k in TrainStageConfig.model_fields})
    latents = [_folder(held) for name, held in run.side.stages.items() if name.startswith("encode_latents@")]
    data = LatentDataset(latents, _folder(run.side.stages["encode_text"]))
    clips, found = held_out_losses(config, _folder(trained) / "transformer_ema", data)
    scales = tuple(patch_name(patch) for patch in config.model.patch_sizes)
    return Losses(scales, found.mean(1), excess(clips, found))


def study(run: SeedRun, name: str) -> Studied:
    """The figures of a study, with their draws."""
    held = run.side.stages[f"study@{name}"]
    content = read_study(_folder(held))
    rows = _output(held).dataset().to_table().to_pylist()
    metrics = [one for one in content["figures"] if one in METRICS]
    figures: dict[str, dict[str, Estimate]] = {}
    for arm in content["order"]:
        own = [row for row in rows if row["arm"] == arm]
        moving = [row for row in own if row["shapes/asked_speed"] > 0]
        found = estimates(pivot(own, metrics, arm), metrics, 0, RESAMPLES)
        speeds = pivot(moving, ["shapes/speed_rank_corr"], arm)
        figures[arm] = {
            "score": composite(found, WEIGHTS),
            **found,
            **estimates_of(speeds, {SPEED.name: SPEED}, 0, RESAMPLES),
        }
    return Studied(figures, content)


def sources(run: SeedRun) -> Sourced:
    """How the system prompts compare, and what fine-tuning on the chosen sources brings."""
    found = read_evaluations(run.side)[0]
    if found.selection is None or len(found.final) != 2:
        raise ValueError(f"run {run.side.name} has no choice of sources, or did not judge what was fine-tuned on it")
    before, after = map(_score, found.final)
    judged = {one.title: _score(one) for one in found.sources}
    return Sourced(run.seed, judged, found.selection.sources, found.selection.best_set, before, after)


def _score(one: Evaluated) -> Estimate:
    return composite(one.draws(0, RESAMPLES)[1], WEIGHTS)


def _output(held: Held) -> Any:
    if held.output is None:
        raise ValueError(f"an output is not there: {held.problem or held.state}")
    return held.output


def _folder(held: Held) -> Path:
    output = _output(held)
    return Path(output.store.output(output.manifest))
