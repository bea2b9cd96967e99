"""Checks of what a job hands back, what a manifest notes about machine and code, and the record of a run."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.engine.call import Result
from pipelines.engine.events import RunSummary
from pipelines.engine.stage import Pipeline
from pipelines.errors import StageError
from pipelines.git import origin

_DIGEST = re.compile(r"rows256-add/1:\d+:[0-9a-f]{1,64}|sha256:[0-9a-f]{64}")


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


def environment() -> dict[str, Any]:
    """What informs about the machine, but identifies nothing."""
    return {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}


def git_state() -> dict[str, Any]:
    """Commit of the code as the run began, and whether it had more than that; empty for code without a repository."""
    found = origin()
    return {} if found is None else {"commit": found.commit, "dirty": bool(found.patch)}


def run_record(
    summary: RunSummary, store: Path, started: float, pipeline: Pipeline, until: str | None
) -> dict[str, Any]:
    """Content of `runs/<run id>.json`.

    Args:
        summary: how the run ended, or where it stands.
        store: root that output paths are relative to.
        started: seconds since the epoch.
        pipeline: what was to be run.
        until: last stage that was wanted; None if the pipeline was not cut.
    """
    stages = {
        outcome.name: {
            "state": outcome.state,
            "fingerprint": outcome.manifest.fingerprint if outcome.manifest else None,
            "digest": outcome.manifest.digest if outcome.manifest else None,
            "path": str(outcome.path.relative_to(store)) if outcome.path else None,
            "inputs": dict(pipeline.by_name[outcome.name].inputs),
            "drift": outcome.drift,
            "seconds": round(outcome.seconds, 3),
            "error": outcome.error,
        }
        for outcome in summary.outcomes.values()
    }
    media_root = _media_root(pipeline, summary)
    return {
        "schema": "lumina.run/1",
        "run": summary.run_id,
        "name": summary.name,
        "pipeline": summary.pipeline,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(summary.seconds, 3),
        "ok": summary.ok and len(stages) == len(pipeline.stages),
        "until": until,
        # Relative where it lies in the store, which may be moved.
        "media_root": str(
            Path(media_root).relative_to(store) if Path(media_root).is_relative_to(store) else media_root
        ),
        "stages": stages,
    }


def _media_root(pipeline: Pipeline, summary: RunSummary) -> str | Path:
    """The directory against which relative URIs of clips resolve; empty if the run has none, or not yet."""
    for stage in pipeline.order:
        given, key = stage.execution.media_root, stage.execution.media_root_from
        if given:
            return given
        made = summary.outcomes.get(stage.inputs[key]) if key else None
        if made is not None and made.path is not None:
            return made.path
    return ""
