"""The records of runs below the directory of a store: `runs/<run id>.json`, and `latest/<run name>` with an id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import StoreError, disk_problem
from pipelines.secrets import scrubbed
from pipelines.storage.durable import replace_file
from pipelines.storage.seal import seal


def write(root: Path, run_id: str, name: str, record: Mapping[str, Any]) -> None:
    """See `Store.put_run`."""
    for path, text in (
        (root / "runs" / f"{run_id}.json", seal(json.dumps(scrubbed(record), indent=1))),
        (root / "latest" / name, run_id),
    ):
        try:
            replace_file(path, text.encode(), sync=True)
        except OSError as error:
            raise StoreError(f"run {run_id}: {disk_problem(error, path)}") from error


def read(path: Path) -> dict[str, Any]:
    """The record in a file, without its checksum.

    Raises:
        StoreError: it is damaged.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}): restore it, or run the pipeline again") from error
    if not isinstance(record, dict):
        raise StoreError(f"{path} is no record of a run: restore it, or run the pipeline again")
    record.pop("checksum", None)
    return record


def find(root: Path, run: str | None) -> Path:
    """See `Store.run_path`."""
    if run is None:
        pointers = sorted((root / "latest").glob("*"), key=lambda path: path.stat().st_mtime_ns)
        pointers = [path for path in pointers if not path.name.startswith(".")]
        if not pointers:
            raise StoreError(f"store {root} holds no run yet; start one with `lumina run CONFIG`")
        run = pointers[-1].name
    pointer = root / "latest" / run
    run_id = pointer.read_text(errors="replace") if pointer.is_file() else run
    path = root / "runs" / f"{run_id}.json"
    if not path.is_file() and run_id != run:
        raise StoreError(f"{pointer} names the run {run_id!r}, whose record {path} is not there; give a run by its id")
    if not path.is_file():
        known = sorted(pointer.name for pointer in (root / "latest").glob("[!.]*"))
        raise StoreError(f"store {root} holds no run {run!r}; names: {', '.join(known) or 'none'}")
    return path
