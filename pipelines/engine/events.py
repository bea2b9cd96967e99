"""What a run tells the world: outcomes, and the interfaces of those who listen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pipelines.engine.stage import Stage
from pipelines.engine.store.manifest import Manifest

OutcomeState = Literal["cached", "done", "failed", "blocked", "interrupted"]


@dataclass(frozen=True)
class StageOutcome:
    """How one stage ended."""

    name: str
    state: OutcomeState
    seconds: float = 0.0
    """Time this run spent on it."""
    manifest: Manifest | None = None
    path: Path | None = None
    """Its output directory."""
    error: str = ""
    trace: str = ""
    drift: str = ""
    """Which code differs since the output was computed; empty for none."""

    @property
    def detail(self) -> str:
        """What there is to say beside the state."""
        if self.drift:
            return self.drift
        if self.state != "done" or self.manifest is None or not self.manifest.taken:
            return self.error
        taken, total = sum(self.manifest.taken.values()), self.manifest.counts["in"]
        return f"{taken:,} of {total:,} rows were in the store"


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    run_id: str
    name: str
    pipeline: str
    outcomes: Mapping[str, StageOutcome]
    """In the order of the pipeline; stages that never got their turn are missing."""
    seconds: float
    unrecorded: str = ""
    """Why the run's record could not be written; empty when it was."""

    @property
    def ok(self) -> bool:
        """Whether every stage is done, and the run recorded."""
        return not self.unrecorded and all(outcome.state in ("cached", "done") for outcome in self.outcomes.values())


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: leases are free, unfinished work is kept."""

    def __init__(self, summary: RunSummary) -> None:
        super().__init__("interrupted")
        self.summary = summary


class Display(Protocol):
    """Where a run shows itself; called from several threads."""

    def stage(self, name: str, state: str, detail: str = "") -> None:
        """A stage changed: waiting, checking, running, cached, done, failed, blocked."""

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """A running stage got on."""

    def note(self, text: str) -> None:
        """A line for the user."""


class Tracking(Protocol):
    """What a run tells the experiment tracker. No call may raise or block for long."""

    def begin_stage(self, stage: Stage, fingerprint: str, inputs: Mapping[str, str], curve: Path | None) -> None:
        """A stage was found, or an attempt at it starts: then `curve`, in its directory, keeps the points for the next
        attempt."""

    def point(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """A point of a curve."""

    def stage_run(self, stage: str) -> Mapping[str, Any]:
        """`run_id` and `uri` of the stage's run for the manifest; empty when unknown."""

    def end_stage(self, stage: str, outcome: StageOutcome) -> None:
        """The stage ended."""


class NoTracking:
    """Tracks nothing."""

    def begin_stage(self, stage: Stage, fingerprint: str, inputs: Mapping[str, str], curve: Path | None) -> None:
        """Nothing."""

    def point(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def stage_run(self, stage: str) -> Mapping[str, Any]:
        """Nothing known."""
        return {}

    def end_stage(self, stage: str, outcome: StageOutcome) -> None:
        """Nothing."""


class NoDisplay:
    """Shows nothing."""

    def stage(self, name: str, state: str, detail: str = "") -> None:
        """Nothing."""

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
