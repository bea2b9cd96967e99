"""A toy pipeline whose stages have code of their own that a test can edit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.engine.code_closure import CodeIndex
from pipelines.engine.code_drift import DriftPolicy
from pipelines.engine.events import RunSummary
from pipelines.engine.fingerprint import DigestCache, Identifier
from pipelines.engine.plan import Plan, plan
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, TESTS, stage

COST_S = 0.05
"""What each stage takes at least."""
RECOMPUTE, KEEP, REFUSE = DriftPolicy(), DriftPolicy(None, COST_S / 2), DriftPolicy("refuse")


@dataclass(frozen=True)
class Edited:
    """a -> (b, c) -> d in a store below `root`; each stage has a module of its own, and all share `helper`."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "own").mkdir()
        (self.root / "own" / "__init__.py").touch()
        self.edit("helper", "value = 1\n")
        for name in "abcd":
            self.edit(name, "from own import helper\nvalue = 1\n")

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def edit(self, name: str, text: str = "from own import helper\nvalue = 2\n") -> None:
        (self.root / "own" / f"{name}.py").write_text(text)

    def identifier(self) -> Identifier:
        return Identifier(CodeIndex({"tests": TESTS, "own": self.root / "own"}), DigestCache())

    def pipeline(self, **texts: str) -> Pipeline:
        arrows: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
        return Pipeline("edited", tuple(self._stage(name, texts.get(name, name), arrows[name]) for name in arrows))

    def _stage(self, name: str, text: str, inputs: tuple[str, ...]) -> Stage:
        return replace(stage(name, inputs=inputs, text=text, sleep=COST_S), operator=f"own.{name}:RUN")

    def go(self, drift: DriftPolicy = RECOMPUTE, run_id: str | None = None, **texts: str) -> RunSummary:
        pipeline, names = self.pipeline(**texts), self.identifier()
        return run(pipeline, self.store, EXECUTE, identifier=names, drift=drift, run_id=run_id)

    def plan(self, drift: DriftPolicy = RECOMPUTE, **texts: str) -> Plan:
        return plan(self.pipeline(**texts), self.store, self.identifier(), drift)


def states(summary: RunSummary) -> dict[str, str]:
    return {name: outcome.state for name, outcome in summary.outcomes.items()}


def planned(found: Plan) -> dict[str, str]:
    return {line.name: line.state for line in found.stages}
