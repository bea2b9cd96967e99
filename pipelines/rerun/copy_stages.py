"""Copy finished stages into the store of a rerun that begins with a later one."""

from __future__ import annotations

import shutil
from pathlib import Path

from jobs.files import link_or_copy
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
        directory, out = target.directory(name, manifest.fingerprint), target.output(manifest)
        shutil.rmtree(out, ignore_errors=True)  # of a killed rerun
        try:
            shutil.copytree(
                store.output(manifest), out, copy_function=lambda old, new: link_or_copy(Path(old), Path(new))
            )
            # Last, as everywhere: an output without a record is none.
            replace_file(directory / "MANIFEST.json", manifest.to_json().encode())
        except OSError as error:
            raise StoreError(f"stage {name}: {directory} cannot be written: {error.strerror or error}") from error
