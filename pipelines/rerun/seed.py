"""Begin a store with the outputs that a rerun from a later stage takes over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lumina.files import replace_file
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError


def copy_stages(store: Store, record: RunRecord, start: str, target: Store) -> None:
    """Put the outputs of all stages that are neither `start` nor follow it into another store.

    Files are linked where both stores lie on one file system: outputs are never written to.

    Args:
        store: of the recorded run.
        record: the run, complete.
        start: first stage that is to be computed again.
        target: may have some of them already.

    Raises:
        StoreError: an output is gone or damaged, or cannot be copied.
    """
    target.prepare()
    again = {start}
    for _ in record.stages:
        again |= {name for name, entry in record.stages.items() if again & set(entry.inputs.values())}
    for name, entry in record.stages.items():
        if name in again:
            continue
        manifest = store.lookup(name, entry.fingerprint) if entry.fingerprint else None
        if manifest is None:
            raise StoreError(f"stage {name}: its output in {store.root} is gone or damaged; rerun with --fresh")
        if target.lookup(name, manifest.fingerprint) is not None:
            continue
        directory = target.directory(name, manifest.fingerprint)
        try:
            shutil.copytree(store.output(manifest), target.output(manifest), copy_function=_link, dirs_exist_ok=True)
            # Last, as everywhere: an output without a record is none.
            replace_file(directory / "MANIFEST.json", manifest.to_json().encode())
        except OSError as error:
            raise StoreError(f"stage {name}: {directory} cannot be written: {error.strerror or error}") from error


def _link(source: str, destination: str) -> None:
    Path(destination).unlink(missing_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
