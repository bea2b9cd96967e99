"""Where a run continues: engine checkpoints in the work directory, each complete or not there at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

KEPT = 2
"""Newest complete checkpoints that stay."""

_MARKER = "COMPLETE"


@dataclass(frozen=True)
class EngineCheckpoint:
    """A complete engine checkpoint. It is private to the run: engine files are pickles, weights are published apart."""

    path: Path
    step: int
    """Optimizer steps done."""
    world: int
    """Workers that wrote it."""


def step_directory(root: Path, step: int) -> Path:
    """Directory of the checkpoint after `step` optimizer steps."""
    return root / f"step-{step:08d}"


def mark_complete(path: Path, step: int, world: int) -> EngineCheckpoint:
    """Declare the checkpoint in `path` complete: the last thing written to it, by one worker, once all have finished.

    The marker lists every file's size, so that one cut short is noticed.
    """
    files = {str(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    partial = path / f"{_MARKER}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"step": step, "world": world, "files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path / _MARKER)
    return EngineCheckpoint(path, step, world)


def newest(root: Path) -> EngineCheckpoint | None:
    """Return the newest checkpoint that is complete and whole; warn about marked ones that are not."""
    for path in sorted(root.glob("step-*"), reverse=True):
        if not (path / _MARKER).exists():
            continue
        marker = json.loads((path / _MARKER).read_text(encoding="utf-8"))
        damaged = [
            name
            for name, size in marker["files"].items()
            if not (path / name).exists() or (path / name).stat().st_size != size
        ]
        if damaged:
            logger.warning("%s is damaged (%s): using the checkpoint before it", path, ", ".join(damaged))
            continue
        return EngineCheckpoint(path, marker["step"], marker["world"])
    return None


def prune(root: Path, kept: EngineCheckpoint | None) -> None:
    """Remove all but the newest `KEPT` complete checkpoints up to `kept`, and whatever is incomplete or behind it."""
    complete = [path for path in sorted(root.glob("step-*"), reverse=True) if (path / _MARKER).exists()]
    limit = -1 if kept is None else kept.step
    stay = [path for path in complete if int(path.name.removeprefix("step-")) <= limit][:KEPT]
    for path in root.glob("step-*"):
        if path not in stay:
            # The marker goes first, so that a half-removed checkpoint never looks complete.
            (path / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(path)
