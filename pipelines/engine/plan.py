"""Plan: what a run would do, and why. Imports nothing heavy and writes nothing but the digest cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.engine.cache_miss import Nearest, nearest, reason
from pipelines.engine.code_drift import DriftPolicy, differs
from pipelines.engine.fingerprint import DigestCache, Identified, Identifier, fingerprint
from pipelines.engine.recipe_diff import Change
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError

PlanState = Literal["cached", "resume", "run", "drift", "unknown", "blocked"]
_NEVER = "never computed in this store"
STATES: tuple[PlanState, ...] = ("cached", "resume", "run", "drift", "unknown", "blocked")


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    name: str
    state: PlanState
    """`drift`: nothing but code has changed, and it is computed again. `unknown`: an input has yet to be computed; if
    it comes out as before, the stage may be cached after all."""
    reason: str
    """The first part of the recipe that differs, old -> new; for `cached`, which code differs since, if any."""
    changes: tuple[Change, ...] = ()
    """Every part in which the recipe differs from that of the output it is compared with; inputs only where known."""
    fingerprint: str | None = None
    """None while an input is unknown."""
    writes: str | None = None
    """Directory that a run will write to, relative to the store; None if it writes nothing, or nobody knows yet."""
    last_seconds: float | None = None
    """What the stage cost when it last ran."""
    last_bytes: int | None = None
    """Size of its last output."""


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

    @property
    def work(self) -> tuple[PlannedStage, ...]:
        """The stages that may be computed."""
        return tuple(stage for stage in self.stages if stage.state not in ("cached", "blocked"))

    @property
    def seconds(self) -> float:
        """What this work cost last time, as far as it was done before."""
        return sum(stage.last_seconds or 0.0 for stage in self.work)

    @property
    def bytes(self) -> int:
        """Size of what it wrote last time."""
        return sum(stage.last_bytes or 0 for stage in self.work)

    def count(self, state: PlanState) -> int:
        """How many stages are in a state."""
        return sum(stage.state == state for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        summary = {state: self.count(state) for state in STATES}
        return {
            "pipeline": self.pipeline,
            "exit": self.exit_code,
            "summary": {**summary, "seconds": round(self.seconds, 3), "bytes": self.bytes},
            "stages": [asdict(stage) for stage in self.stages],
        }


def digest_cache(store: Store) -> DigestCache:
    """The store's memory of file digests."""
    return DigestCache(store.root / "cache" / "digests.json")


def plan(
    pipeline: Pipeline, store: Store, identifier: Identifier | None = None, drift: DriftPolicy | None = None
) -> Plan:
    """Work out the state of every stage without running any.

    Args:
        pipeline: what depends on what.
        store: where outputs are looked for.
        identifier: computes fingerprints; tests give their own first-party packages.
        drift: what becomes of outputs from which nothing but code differs; by default they are computed again.
    """
    identifier = identifier or Identifier(cache=digest_cache(store))
    planner = _Planner(store, identifier, drift or DriftPolicy(), {}, {})
    for stage in pipeline.order:
        planner.planned[stage.name] = planner.stage(stage)
    identifier.cache.save()
    return Plan(pipeline.name, tuple(planner.planned.values()))


@dataclass(frozen=True)
class _Planner:
    store: Store
    identifier: Identifier
    drift: DriftPolicy
    digests: dict[str, str]
    """Of the outputs that are there, by stage."""
    planned: dict[str, PlannedStage]

    def stage(self, stage: Stage) -> PlannedStage:
        blocked = [name for name in stage.inputs.values() if self.planned[name].state == "blocked"]
        if blocked:
            return _line(stage, "blocked", f"needs {blocked[0]}", self.store.manifests(stage.name))
        try:
            recipe, weights = self.identifier.base(stage)
        except (PipelineError, OSError) as error:
            return _line(stage, "blocked", str(error), self.store.manifests(stage.name))
        waiting = [key for key, upstream in stage.inputs.items() if upstream not in self.digests]
        recipe["inputs"] = {key: self.digests.get(upstream, "") for key, upstream in stage.inputs.items()}
        if waiting:
            return self._waiting(stage, recipe, waiting)
        return self._known(stage, Identified(recipe, fingerprint(recipe), weights))

    def _waiting(self, stage: Stage, recipe: Mapping[str, Any], waiting: Sequence[str]) -> PlannedStage:
        history = self.store.manifests(stage.name)
        found = nearest(history, recipe, frozenset(waiting))
        if found is None:
            return _line(stage, "run", _NEVER, history)
        if not found.changes:
            return _line(stage, "unknown", f"input {waiting[0]} is not computed yet", history, found)
        if not found.by_code_alone:
            return _line(stage, "run", reason(found.changes), history, found)
        if self.drift.decide(stage.name, found.manifest.seconds) == "recompute":
            return _line(stage, "drift", reason(found.changes), history, found)
        return _line(stage, "unknown", f"input {waiting[0]} is not computed yet; {differs(found)}", history, found)

    def _known(self, stage: Stage, found: Identified) -> PlannedStage:
        name = found.fingerprint
        manifest, damage = self.store.look(stage.name, name)
        if manifest is not None:
            self.digests[stage.name] = manifest.digest
            return _line(stage, "cached", "", [manifest], fingerprint=name)
        history = self.store.manifests(stage.name)
        old, holder = nearest(history, found.recipe), self.store.holder(stage.name, name)
        why = f"{holder} is computing it now" if holder else _why(old, damage)
        state: PlanState = "drift" if old is not None and old.by_code_alone and holder is None else "run"
        if self.store.has_work(stage.name, name):
            state, why = "resume", why if holder else "unfinished work is there"
        elif (drifted := self.drift.drifted(self.store, stage, found)) is not None:
            kept = drifted.output
            if drifted.refusal:
                return _line(stage, "blocked", drifted.refusal, history, kept, name)
            self.digests[stage.name] = kept.manifest.digest
            return _line(stage, "cached", differs(kept), history, kept, kept.manifest.fingerprint)
        writes = self.store.directory(stage.name, name).relative_to(self.store.root).as_posix()
        return _line(stage, state, why, history, old, name, writes)


def _line(
    stage: Stage,
    state: PlanState,
    why: str,
    history: list[Manifest],
    old: Nearest | None = None,
    fingerprint: str | None = None,
    writes: str | None = None,
) -> PlannedStage:
    last = old.manifest if old is not None else next(iter(history), None)
    return PlannedStage(
        stage.name,
        state,
        why,
        old.changes if old is not None else (),
        fingerprint,
        writes,
        last.seconds if last else None,
        sum(file.bytes for file in last.files) if last else None,
    )


def explain(history: list[Manifest], recipe: Mapping[str, Any]) -> str:
    """Why a recipe was not found: its first difference from the output that is nearest to it."""
    return _why(nearest(history, recipe))


def _why(old: Nearest | None, damage: str | None = None) -> str:
    if damage is not None:
        return f"its output is gone or damaged: {damage}"
    if old is None:
        return _NEVER
    return reason(old.changes) or "its output is gone or damaged"
