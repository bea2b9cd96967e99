"""Run events: outcomes of stages, and the interfaces of those who listen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry

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

    def entry(self, store: Path, inputs: Mapping[str, str]) -> StageEntry:
        """What the record of the run tells of the stage."""
        made = self.manifest
        return StageEntry(
            state=self.state,
            fingerprint=made.fingerprint if made else None,
            digest=made.digest if made else None,
            path=str(self.path.relative_to(store)) if self.path else None,
            inputs=inputs,
            drift=self.drift,
            seconds=round(self.seconds, 3),
            error=self.error,
        )


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

    def record(
        self, store: Path, started: float, pipeline: Pipeline, until: str | None, lock: Mapping[str, Any] | None
    ) -> RunRecord:
        """What the store keeps of the run.

        Args:
            store: root that output paths are relative to.
            started: seconds since the epoch.
            pipeline: what was to be run.
            until: last stage that was wanted; None if the pipeline was not cut.
            lock: see `RunRecord.lock`.
        """
        root = self._media_root(pipeline)
        return RunRecord(
            run=self.run_id,
            name=self.name,
            pipeline=self.pipeline,
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            seconds=round(self.seconds, 3),
            ok=self.ok and len(self.outcomes) == len(pipeline.stages),
            until=until,
            # Relative where it lies in the store, which may be moved.
            media_root=str(Path(root).relative_to(store) if Path(root).is_relative_to(store) else root),
            stages={name: one.entry(store, pipeline.by_name[name].inputs) for name, one in self.outcomes.items()},
            lock=lock,
        )

    def _media_root(self, pipeline: Pipeline) -> str | Path:
        for stage in pipeline.order:
            given, key = stage.execution.media_root, stage.execution.media_root_from
            if given:
                return given
            made = self.outcomes.get(stage.inputs[key]) if key else None
            if made is not None and made.path is not None:
                return made.path
        return ""


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

    def image(self, stage: str, key: str, file: str, step: int) -> None:
        """A picture of a series; `file` is below the stage's scratch directory now, and below its output in the end."""

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

    def image(self, stage: str, key: str, file: str, step: int) -> None:
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
