"""Plan of a sweep: which stages its runs share, how many computations that leaves, and which are cached.

Whether two runs share a stage is known before anything has run: they do if their recipes are equal, where in the place
of an input's digest stands the recipe that it is made by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.dag import build
from pipelines.engine.fingerprint import Identifier, fingerprint
from pipelines.engine.plan import Plan, PlannedStage, PlanState, digest_cache
from pipelines.engine.plan import plan as plan_run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.sweep.arms import Sweep, SweepRun


@dataclass(frozen=True)
class SharedStage:
    """One stage in all runs of a sweep."""

    name: str
    versions: tuple[int | None, ...]
    """Which of its computations each run has, numbered from 0; None for a run without the stage."""
    planned: tuple[PlannedStage, ...]
    """How each of these stands."""

    @property
    def runs(self) -> int:
        """How many runs have it."""
        return sum(version is not None for version in self.versions)

    def count(self, *states: PlanState) -> int:
        """Computations in some states."""
        return sum(one.state in states for one in self.planned)

    @property
    def letters(self) -> str:
        """A letter a run: runs with the same letter share the computation."""
        return "".join(" " if at is None else chr(ord("a") + at) if at < 26 else "?" for at in self.versions)


@dataclass(frozen=True)
class SweepPlan:
    """All stages, in an order in which they can run."""

    runs: tuple[SweepRun, ...]
    stages: tuple[SharedStage, ...]
    plans: tuple[Plan, ...]
    """Of each run."""

    @property
    def computations(self) -> int:
        """How many there are, those included that are cached."""
        return sum(len(stage.planned) for stage in self.stages)

    @property
    def unshared(self) -> int:
        """How many there would be if each run had a store of its own."""
        return sum(stage.runs for stage in self.stages)

    @property
    def cached(self) -> int:
        """How many are in the store."""
        return sum(stage.count("cached") for stage in self.stages)

    @property
    def seconds(self) -> float:
        """What is left to compute took last time, as far as it was computed before."""
        work = (one for stage in self.stages for one in stage.planned if one.state != "cached")
        return sum(one.last_seconds or 0.0 for one in work)

    @property
    def unshared_seconds(self) -> float:
        """What all runs took alone, as far as it is known."""
        return sum(one.last_seconds or 0.0 for plan in self.plans for one in plan.stages)

    @property
    def exit_code(self) -> int:
        """0 when there is nothing to do, 2 when there is work."""
        return 0 if self.cached == self.computations else 2

    def shared_by_all(self) -> tuple[str, ...]:
        """Stages that are computed once for all runs."""
        return tuple(stage.name for stage in self.stages if len(stage.planned) == 1 and stage.runs == len(self.runs))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "exit": self.exit_code,
            "computations": self.computations,
            "unshared": self.unshared,
            "cached": self.cached,
            "seconds": round(self.seconds, 3),
            "unshared_seconds": round(self.unshared_seconds, 3),
            "shared_by_all": list(self.shared_by_all()),
            "runs": [
                {"arm": run.arm, "seed": run.seed, "name": run.name, "overrides": list(run.overrides)}
                for run in self.runs
            ],
            "stages": [
                {
                    "name": stage.name,
                    "versions": list(stage.versions),
                    "states": [one.state for one in stage.planned],
                    "fingerprints": [one.fingerprint for one in stage.planned],
                    "last_seconds": [one.last_seconds for one in stage.planned],
                }
                for stage in self.stages
            ],
        }


def plan_sweep(sweep: Sweep, store: Store, until: str | None = None, identifier: Identifier | None = None) -> SweepPlan:
    """Work out what all runs together would compute; see `plan_runs`."""
    pipelines = []
    for run in sweep.runs:
        try:
            pipelines.append(build(run.settings).until(until))
        except PipelineError as error:
            raise PipelineError(f"arm {run.arm}: {error}; nothing was started") from error
    return plan_runs(sweep.runs, pipelines, store, identifier)


def plan_runs(
    runs: Sequence[SweepRun], pipelines: Sequence[Pipeline], store: Store, identifier: Identifier | None = None
) -> SweepPlan:
    """Work out what some runs together would compute.

    Args:
        runs: arm by arm.
        pipelines: of each.
        store: where all of them put their outputs.
        identifier: computes fingerprints; tests give their own first-party packages.

    Raises:
        PipelineError: two arms are equal, or a stage of one cannot run.
    """
    identifier = identifier or Identifier(cache=digest_cache(store))
    plans, names = [], []
    for run, pipeline in zip(runs, pipelines, strict=True):
        made = plan_run(pipeline, store, identifier, run.settings.drift_policy())
        if blocked := next((stage for stage in made.stages if stage.state == "blocked"), None):
            raise PipelineError(f"arm {run.arm}: {blocked.name} cannot run: {blocked.reason}; nothing was started")
        plans.append(made)
        names.append(_identities(pipeline, identifier))
    _check_unlike(runs, names)
    every = dict.fromkeys(stage.name for pipeline in pipelines for stage in pipeline.order)
    return SweepPlan(tuple(runs), tuple(_shared(name, names, plans) for name in every), tuple(plans))


def _identities(pipeline: Pipeline, identifier: Identifier) -> dict[str, str]:
    """Every stage by all that its output is made from, known before anything has run."""
    found: dict[str, str] = {}
    for stage in pipeline.order:
        found[stage.name] = identifier.identify(stage, found).fingerprint
    return found


def _check_unlike(runs: Sequence[SweepRun], names: Sequence[Mapping[str, str]]) -> None:
    seen: dict[str, SweepRun] = {}
    for run, one in zip(runs, names, strict=True):
        other = seen.setdefault(fingerprint(dict(one)), run)
        if other is not run:
            pair = (
                f"arms {other.arm} and {run.arm} are equal" if other.arm != run.arm else f"arm {run.arm} does not train"
            )
            why = "every stage has the same recipe in both" if other.arm != run.arm else "so its seeds are all the same"
            raise PipelineError(f"{pair}: {why}; leave one out. Nothing was started")


def _shared(name: str, names: Sequence[Mapping[str, str]], plans: Sequence[Plan]) -> SharedStage:
    numbers: dict[str, int] = {}
    planned = []
    versions: list[int | None] = []
    for one, plan in zip(names, plans, strict=True):
        if name not in one:
            versions.append(None)
            continue
        if one[name] not in numbers:
            numbers[one[name]] = len(numbers)
            planned.append(next(stage for stage in plan.stages if stage.name == name))
        versions.append(numbers[one[name]])
    return SharedStage(name, tuple(versions), tuple(planned))
