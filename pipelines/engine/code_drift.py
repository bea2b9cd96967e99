"""Code drift: what becomes of an output from which nothing but the code of its stage differs.

A changed log line must not throw away a trained model: what is expensive to compute again is kept, and everything that
shows it says which code differs since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.engine.cache_miss import Nearest, by_code_alone, module_names
from pipelines.engine.fingerprint import Identified
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError

ALL = "all"
"""In place of a stage's name: every stage."""
Choice = Literal["recompute", "keep", "refuse"]


@dataclass(frozen=True)
class DriftPolicy:
    """Which outputs stay though code of their stage differs."""

    choice: Choice | None = "recompute"
    """Compute such a stage again, keep its output, or refuse to go on; None goes by cost."""
    limit_s: float = 0.0
    """By cost: an output that took more seconds is kept, another is computed again."""
    recompute: frozenset[str] = frozenset()
    """Stages that are computed again in any case, by name; `all` for every one."""

    def check(self, pipeline: Pipeline) -> None:
        """PipelineError if `recompute` names a stage that the pipeline has not."""
        unknown = sorted(self.recompute - {ALL, *pipeline.by_name})
        if unknown:
            raise PipelineError(
                f"--recompute {unknown[0]}: there is no such stage; there are: {', '.join(pipeline.by_name)}, or "
                f"`{ALL}`"
            )

    def decide(self, stage: str, seconds: float) -> Choice:
        """What becomes of an output that took so long."""
        if {ALL, stage} & self.recompute:
            return "recompute"
        return self.choice or ("keep" if seconds > self.limit_s else "recompute")

    def drifted(self, store: Store, stage: Stage, found: Identified) -> Drifted | None:
        """The newest whole output from which nothing but the code differs, unless the stage is to be computed again."""
        for one in by_code_alone(store.manifests(stage.name), found.recipe):
            whole = store.lookup(stage.name, one.manifest.fingerprint)
            if whole is not None:
                choice = self.decide(stage.name, whole.seconds)
                old = Nearest(whole, one.changes)
                return None if choice == "recompute" else Drifted(old, _refusal(old) if choice == "refuse" else "")
        return None


@dataclass(frozen=True)
class Drifted:
    """A whole output from which nothing but the code differs, and that stays."""

    output: Nearest
    refusal: str
    """Why a run must not go on with it; empty if it is kept."""


def differs(old: Nearest) -> str:
    """What is said of an output that is kept: `code differs since: lumina.motion, lumina.video`."""
    return f"code differs since: {module_names(old.changes)}"


def _refusal(old: Nearest) -> str:
    return (
        f"only its code has changed ({module_names(old.changes)}) since it took {old.manifest.seconds:,.0f} s, and "
        f"code_drift is refuse: compute it again with `--recompute {old.manifest.stage}`, or keep its output with "
        "`-o code_drift=keep`"
    )
