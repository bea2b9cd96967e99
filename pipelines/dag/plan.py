"""What a run would do, and why. Imports nothing heavy and writes nothing but the digest cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.dag.fingerprint import DigestCache, Identifier, fingerprint, first_difference
from pipelines.dag.stage import Pipeline, Stage
from pipelines.errors import PipelineError
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

PlanState = Literal["cached", "resume", "run", "unknown", "blocked"]


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    name: str
    state: PlanState
    """`unknown`: an input has yet to be computed; if it comes out as before, the stage may be cached after all."""
    reason: str
    fingerprint: str | None = None
    last_seconds: float | None = None
    """What the stage cost when it last ran."""


@dataclass(frozen=True)
class Plan:
    """The state of every stage, in the order in which they run."""

    pipeline: str
    stages: tuple[PlannedStage, ...]

    @property
    def exit_code(self) -> int:
        """0 when there is nothing to do, 2 when there is work, 1 when a stage is blocked."""
        states = {stage.state for stage in self.stages}
        if "blocked" in states:
            return 1
        return 0 if states <= {"cached"} else 2

    def count(self, state: PlanState) -> int:
        """How many stages are in a state."""
        return sum(stage.state == state for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"pipeline": self.pipeline, "exit": self.exit_code, "stages": [asdict(stage) for stage in self.stages]}


def digest_cache(store: Store) -> DigestCache:
    """The store's memory of file digests."""
    return DigestCache(store.root / "cache" / "digests.json")


def plan(pipeline: Pipeline, store: Store, identifier: Identifier | None = None) -> Plan:
    """Work out the state of every stage without running any."""
    identifier = identifier or Identifier(cache=digest_cache(store))
    digests: dict[str, str] = {}
    planned: dict[str, PlannedStage] = {}
    for stage in pipeline.order:
        planned[stage.name] = _plan_stage(stage, store, identifier, digests, planned)
    identifier.cache.save()
    return Plan(pipeline.name, tuple(planned.values()))


def _plan_stage(
    stage: Stage, store: Store, identifier: Identifier, digests: dict[str, str], planned: Mapping[str, PlannedStage]
) -> PlannedStage:
    history = store.manifests(stage.name)
    cost = history[0].seconds if history else None
    blocked = [name for name in stage.inputs.values() if planned[name].state == "blocked"]
    if blocked:
        return PlannedStage(stage.name, "blocked", f"needs {blocked[0]}", None, cost)
    try:
        recipe, _ = identifier.base(stage)
    except (PipelineError, OSError) as error:
        return PlannedStage(stage.name, "blocked", str(error), None, cost)
    waiting = [key for key, upstream in stage.inputs.items() if upstream not in digests]
    if waiting:
        if not history:
            return PlannedStage(stage.name, "run", "never computed in this store", None, cost)
        if not any(first_difference(old.recipe, recipe, skip=("inputs",)) is None for old in history):
            return PlannedStage(stage.name, "run", explain(history, recipe, skip=("inputs",)), None, cost)
        return PlannedStage(stage.name, "unknown", f"input {waiting[0]} is not computed yet", None, cost)
    recipe["inputs"] = {key: digests[upstream] for key, upstream in stage.inputs.items()}
    name = fingerprint(recipe)
    manifest = store.lookup(stage.name, name)
    if manifest is not None:
        digests[stage.name] = manifest.digest
        return PlannedStage(stage.name, "cached", "", name, manifest.seconds)
    holder = store.holder(stage.name, name)
    reason = f"{holder} is computing it now" if holder else explain(history, recipe)
    if store.has_work(stage.name, name):
        return PlannedStage(stage.name, "resume", "unfinished work is there" if holder is None else reason, name, cost)
    return PlannedStage(stage.name, "run", reason, name, cost)


def explain(history: list[Manifest], recipe: Mapping[str, Any], skip: tuple[str, ...] = ()) -> str:
    """Why a recipe was not found: its first difference from the newest output of the stage."""
    if not history:
        return "never computed in this store"
    return first_difference(history[0].recipe, recipe, skip) or "its output is gone or damaged"
