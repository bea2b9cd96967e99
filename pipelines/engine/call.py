"""Execution of a stage, as the engine asks for it: what a job is given, and what it has to give back.

The engine knows neither jobs nor clusters: whoever runs a pipeline gives it an `Executor`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.engine.stage import Stage
from pipelines.errors import StageError

_DIGEST = re.compile(r"rows256-add/1:\d+:[0-9a-f]{1,64}|sha256:[0-9a-f]{64}")


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
    """64 hex digits."""
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
    log_image: Callable[[str, str, int], None]
    """log_image(key, file, step): a picture of a series, below `work` now and below `out` in the end."""
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


def check_result(stage: str, result: Result) -> None:
    """Hold a job to its contract.

    Raises:
        StageError: the digest is malformed, or the counts of a row stage do not add up.
    """
    if not _DIGEST.fullmatch(result.digest):
        raise StageError(
            f"stage {stage}: digest {result.digest!r} is neither `rows256-add/1:<n>:<hex>` nor `sha256:<hex>`"
        )
    if problem := count_problem(result.counts):
        raise StageError(f"stage {stage}: {problem}")


def count_problem(counts: Mapping[str, int]) -> str | None:
    """What is wrong with the counts of a row stage; None where they add up, or where there are none."""
    if "in" not in counts:
        return None
    parts = {
        key: count for key, count in counts.items() if key == "ok" or key.startswith(("quarantined/", "filtered/"))
    }
    if sum(parts.values()) == counts["in"]:
        return None
    return f"{counts['in']} rows came in, {parts} do not add up to that"
