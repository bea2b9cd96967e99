"""Clips of a training that goes on: where the newest whole ones lie."""

from __future__ import annotations

from pathlib import Path

from lumina.training.sample_config import FOLDER, STEP_FILE
from pipelines.engine.store.lease import Holder
from pipelines.engine.store.store import Store
from pipelines.reports.status import RunStatus


def newest_samples(store: Store, status: RunStatus) -> dict[str, Path]:
    """Running stage -> folder of the clips that became whole last, as far as this machine has them.

    Those that were made before the run was killed and continued are among them; those of another recipe are not.
    """
    found = {}
    for name, row in status.stages.items():
        if row.state == "running":
            made = [
                (path.stat().st_mtime_ns, path.parent)
                for path in (store.root / "stages" / name).glob(f"*/work/{FOLDER}/step-*/{STEP_FILE}")
                if _is_at(status, store.holder(name, path.parents[3].name))
            ]
            if made:
                found[name] = max(made)[1]
    return found


def _is_at(status: RunStatus, holder: Holder | None) -> bool:
    """Whether a run's process is what holds a stage."""
    return holder is not None and (holder.pid, holder.process_start, holder.machine) == (
        status.pid,
        status.process_start,
        status.machine,
    )
