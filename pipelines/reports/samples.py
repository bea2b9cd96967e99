"""Clips of a training that goes on: where the newest whole ones lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lumina.training.sample_config import FOLDER, STEP_FILE
from pipelines.engine.store.store import Store
from pipelines.reports.progress import StageProgress


def newest_samples(store: Store, stages: Mapping[str, StageProgress]) -> dict[str, Path]:
    """Running stage -> folder of the clips that became whole last, as far as this machine has them."""
    found = {}
    for name, row in stages.items():
        if row.state == "running":
            made = [
                (path.stat().st_mtime_ns, path.parent)
                for path in (store.root / "stages" / name).glob(f"*/work/{FOLDER}/step-*/{STEP_FILE}")
                # What an earlier attempt with other settings left is none of this run.
                if path.stat().st_mtime >= row.since
            ]
            if made:
                found[name] = max(made)[1]
    return found
