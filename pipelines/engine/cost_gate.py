"""The cost gate: what took long is not computed again for a change of code alone, unless somebody says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.engine.cache_miss import Nearest, by_code_alone, module_names
from pipelines.engine.fingerprint import Identified
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError

ALL = "all"
"""In place of a stage's name: every stage."""


@dataclass(frozen=True)
class CostGate:
    """Which stages are computed again though nothing but their code differs."""

    limit_s: float | None = None
    """Recorded seconds of work that may be done again for a change of code alone; None is without limit."""
    rerun: frozenset[str] = frozenset()
    """Stages that may whatever they cost, by name; `all` for every one."""

    def check(self, pipeline: Pipeline) -> None:
        """PipelineError if `rerun` names a stage that the pipeline has not."""
        unknown = sorted(self.rerun - {ALL, *pipeline.by_name})
        if unknown:
            raise PipelineError(
                f"--rerun {unknown[0]}: there is no such stage; there are: {', '.join(pipeline.by_name)}, or `{ALL}`"
            )

    def held_by(self, store: Store, stage: Stage, found: Identified) -> Nearest | None:
        """The output for whose sake the stage is not computed; None if it may be."""
        old = next(iter(adoptable(store, stage.name, found)), None)
        return old if old is not None and self.holds(stage.name, old.manifest.seconds) else None

    def holds(self, stage: str, seconds: float) -> bool:
        """Whether a stage that took so long is not computed again for a change of code alone."""
        return self.limit_s is not None and seconds > self.limit_s and not {ALL, stage} & self.rerun

    def message(self, stage: str, old: Nearest) -> str:
        """What the user is told."""
        return (
            f"only its code has changed ({module_names(old.changes)}) since it took {old.manifest.seconds:,.0f} s, and "
            f"cost_gate_s is {self.limit_s:,.0f}: compute it again with `lumina run ... --rerun {stage}`, or keep "
            f'what is there with `lumina accept {stage} --reason "..."`'
        )


def adoptable(store: Store, stage: str, found: Identified) -> Iterable[Nearest]:
    """Whole outputs from which nothing but the code differs, the newest first."""
    for one in by_code_alone(store.manifests(stage), found.recipe):
        if store.lookup(stage, one.manifest.fingerprint.removeprefix("sha256:")) is not None:
            yield one
