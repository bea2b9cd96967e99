"""Weights & Biases offline runs of a recorded run: curves and pictures of its stages, from what the store holds."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.tracking.recorded_stages import RecordedStage, stage_folders

_PROJECT = "lumina-video"


def write_wandb(store: Store, record: RunRecord, out: Path) -> list[Path]:
    """Write `out/<run>/<stage>/offline-run-.../`, a W&B run of each stage that has figures; return these folders.

    What was there of a stage is replaced. No server is asked; `wandb sync FOLDER` uploads one. W&B's id of a run is of
    run, stage and fingerprint, so a stage that is uploaded twice is there once.

    Raises:
        PipelineError: the package wandb is absent, or no stage of the run is finished.
        StoreError: an output cannot be read.
    """
    # Read when the package is imported: else it reports to its maker what goes wrong here.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError as error:
        raise PipelineError(
            'the package wandb is not installed here: pip install "lumina-video[wandb]", or take --to tensorboard, '
            "which needs nothing"
        ) from error
    written = []
    for stage, part, folder in stage_folders(store, record, out):
        _write(wandb, stage, record.run, part)
        [made] = (part / "wandb").glob("offline-run-*")
        folder.mkdir()
        made.rename(folder / made.name)
        shutil.rmtree(part)
        written.append(folder / made.name)
    return written


def _write(wandb: Any, stage: RecordedStage, run_id: str, folder: Path) -> None:
    identity = f"{run_id} {stage.name} {stage.fingerprint}"
    settings = wandb.Settings(
        # What it would find out by itself is of this process, not of the stage's.
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    run = wandb.init(
        mode="offline",
        dir=str(folder),
        project=_PROJECT,
        group=run_id,
        job_type=stage.kind,
        name=f"{run_id} {stage.name}",
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        config={"stage": stage.name, "run": run_id, "fingerprint": stage.fingerprint},
        settings=settings,
        reinit="create_new",
    )
    try:
        for step in stage.steps:
            shown = {picture.key: wandb.Image(str(picture.png)) for picture in step.pictures}
            run.log({**step.metrics, **shown, "_timestamp": step.time}, step=step.number)
    finally:
        run.finish()
