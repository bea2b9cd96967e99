"""Losses of every scale over t, for a schedule search: of a run, of a stage's output, or of the run that exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.files import read_json, read_jsonl
from lumina.training.loop_config import METRICS_FILE
from pipelines.commands.options import open_store
from pipelines.engine.store.run_record import run_ids
from pipelines.errors import PipelineError

if TYPE_CHECKING:
    from lumina.models.config import PatchSize
    from pipelines.engine.store.run_record import RunRecord
    from pipelines.engine.store.store import Store

Losses = dict["PatchSize", dict[int, float]]
"""Mean squared error of every scale by bin of t, over the last fifth of a training stage's steps."""

_EXPECTED = "name a run whose training had several scales, as --losses RUN --store WHERE"


def find_losses(losses: str | None, checkpoint: str, where: str | None) -> Losses:
    """Losses of the last training stage with videos at several scales.

    Args:
        losses: name or id of a run, or the output of a stage: a directory of a store, or the one above. None is the run
            that exported the checkpoint.
        checkpoint: exported directory, or hf:owner/name.
        where: the store.

    Raises:
        PipelineError: there is none.
        StoreError: there is no such run, or an output cannot be read.
    """
    if losses is not None and Path(losses).is_dir():
        return _of_folder(Path(losses))
    store = open_store(where)
    return _of_run(store, _exporting_run(store, checkpoint) if losses is None else store.get_run(losses))


def _exporting_run(store: Store, checkpoint: str) -> RunRecord:
    """The newest run that ended and has the export, which the checkpoint's lineage tells.

    It need not be the one that computed it: that may have been killed later, and another have gone on.
    """
    lineage = Path(checkpoint) / "lineage.json"
    if not lineage.is_file():
        raise PipelineError(f"{checkpoint} does not say which run exported it: {_EXPECTED}")
    known = read_json(lineage)
    try:
        stage, fingerprint = known["stage"], known["fingerprint"]
    except (KeyError, TypeError) as error:
        raise PipelineError(f"{lineage} names no stage of a run: {_EXPECTED}") from error
    for run in reversed(run_ids(store.objects)):
        record = store.get_run(run)
        if stage in record.stages and record.stages[stage].fingerprint == fingerprint:
            return record
    raise PipelineError(f"store {store.uri} has no run that exported {checkpoint}: {_EXPECTED}")


def _of_run(store: Store, record: RunRecord) -> Losses:
    for name, entry in reversed(list(record.stages.items())):
        manifest = store.lookup(name, entry.fingerprint) if entry.fingerprint else None
        if manifest is not None and (tasks := _scales(manifest.recipe.get("config", {}))):
            return _bins(store.fetch(manifest, lambda path: path == METRICS_FILE) / METRICS_FILE, tasks)
    raise PipelineError(f"run {record.run} did not train videos at several scales: {_EXPECTED}")


def _of_folder(folder: Path) -> Losses:
    manifest = next(
        (one / "MANIFEST.json" for one in (folder, folder.parent) if (one / "MANIFEST.json").is_file()), None
    )
    if manifest is None:
        raise PipelineError(f"--losses {folder}: there is no MANIFEST.json in it or above: {_EXPECTED}")
    found = read_json(manifest)
    try:
        metrics, tasks = manifest.parent / found["attempt"] / METRICS_FILE, _scales(found["recipe"]["config"])
    except (KeyError, TypeError) as error:
        raise PipelineError(f"--losses {folder}: its MANIFEST.json is of no stage: {_EXPECTED}") from error
    if not tasks or not metrics.is_file():
        raise PipelineError(f"--losses {folder} did not train videos at several scales: {_EXPECTED}")
    return _bins(metrics, tasks)


def _scales(config: Mapping[str, Any]) -> dict[str, PatchSize]:
    """Task -> patch size of those on videos; empty for a stage that trains none, or all of them at one scale."""
    tasks = config.get("tasks") or ()
    found = {one["name"]: tuple(one["patch"]) for one in tasks if one.get("media") == "video"}
    return found if len(set(found.values())) > 1 else {}


def _bins(metrics: Path, tasks: Mapping[str, PatchSize]) -> Losses:
    from jobs.train_plots import late_bins

    bins = late_bins(read_jsonl(metrics), tasks)
    return {patch: bins[name] for name, patch in tasks.items()}
