"""Execution of a stage, as the engine asks for it: what a job is given, and what it has to give back.

The engine knows neither jobs nor clusters: whoever runs a pipeline gives it an `Executor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.engine.stage import Stage


@dataclass(frozen=True)
class Input:
    """A finished stage that is read."""

    stage: str
    path: Path
    """Its output directory on this machine."""
    digest: str


@dataclass(frozen=True)
class ReuseCandidate:
    """A finished output of the same stage from which nothing but the content of the inputs differs."""

    fingerprint: str
    """`sha256:<hex>`."""
    fetch: Callable[[Callable[[str], bool]], Path]
    """fetch(wanted): its directory, with those of its files on this machine whose path in there is wanted."""


@dataclass(frozen=True)
class Call:
    """One attempt at a stage."""

    stage: Stage
    fingerprint: str
    """64 hex digits."""
    inputs: Mapping[str, Input]
    weights: Mapping[str, str]
    """Name -> local file or directory."""
    out: Path
    """Empty directory of this attempt: all outputs go here."""
    work: Path
    """Scratch that belongs to the fingerprint: survives a kill, removed once the stage is committed."""
    progress: Callable[[int, int, str], None]
    """progress(done, total, unit)."""
    log_metrics: Callable[[Mapping[str, float], int], None]
    """log_metrics(metrics, step): a point of a curve."""
    candidates: tuple[ReuseCandidate, ...]
    """Where rows may be that need not be computed again, the newest first."""

    @property
    def media_root(self) -> str:
        """Directory against which relative clip URIs resolve."""
        execution = self.stage.execution
        return str(self.inputs[execution.media_root_from].path) if execution.media_root_from else execution.media_root


class Result(Protocol):
    """What the manifest records about a finished stage."""

    @property
    def kind(self) -> str:
        """`rows`, `checkpoint` or `files`."""

    @property
    def digest(self) -> str:
        """`rows256-add/1:<n>:<hex>`, or `sha256:<hex>`."""

    @property
    def counts(self) -> Mapping[str, int]:
        """For rows: `in`, `ok`, and one entry `quarantined/<reason>` or `filtered/<reason>` each."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Summary numbers."""

    @property
    def evaluations(self) -> tuple[Any, ...]:
        """Dataclasses with name, params, metrics and artifacts."""

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Files of the output that are worth showing."""

    @property
    def weights(self) -> Mapping[str, str]:
        """For a checkpoint: name -> directory of each set of weights."""

    @property
    def taken(self) -> Mapping[str, int]:
        """Fingerprint of a reuse candidate -> number of rows that are its."""


class Executor(Protocol):
    """Executes stages; called from several threads."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How stages are executed, for the record: no part of their identity."""

    def __call__(self, call: Call) -> Result:
        """Compute a stage into `call.out`."""
