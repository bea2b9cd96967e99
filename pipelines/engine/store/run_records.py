"""The records of runs below the directory of a store: `runs/<run id>.json`, and `latest/<run name>` with an id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from pipelines.engine.store.atomic_io import replace_file
from pipelines.engine.store.checksum import is_whole, seal
from pipelines.engine.store.typed import (
    Below,
    Fingerprint,
    Name,
    Number,
    Text,
    Truth,
    checked,
    is_name,
    parse,
    read_text,
)
from pipelines.errors import StoreError, disk_problem
from pipelines.secrets import scrubbed


def _moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


@dataclass(frozen=True)
class _Stage:
    """What is relied upon of a stage in the record of a run."""

    fingerprint: Fingerprint | None
    digest: Text | None
    state: Text = ""
    path: Below | None = None
    inputs: Mapping[Text, Text] = field(default_factory=dict)
    drift: Text = ""
    seconds: Number = 0.0
    error: Text = ""


@dataclass(frozen=True)
class _Run:
    """What is relied upon of the record of a run; see `pipelines.engine.run_record`.

    The lock is `pipelines.rerun.lock`'s.
    """

    run: Name
    name: Name
    started: Annotated[Text, AfterValidator(_moment)]
    stages: Mapping[Name, _Stage]
    ok: Truth = False
    seconds: Number = 0.0
    until: Text | None = None
    media_root: Text = ""
    lock: Mapping[Text, Any] | None = None
    schema: Literal["lumina.run/1"] = "lumina.run/1"


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


def read(path: Path, sealed: bool = True) -> dict[str, Any]:
    """The record in a file, without its checksum.

    Args:
        path: the file.
        sealed: whether its checksum must be right.

    Raises:
        StoreError: it is damaged, or was edited.
    """
    try:
        text = read_text(path)
        record: dict[str, Any] = parse(text)
        checked(_Run, record)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}): restore it, or run the pipeline again") from error
    if sealed and not is_whole(text):
        raise StoreError(
            f"{path} was edited: its checksum is not that of what it says, and nothing acts on it: restore it, or run "
            "the pipeline again"
        )
    record.pop("checksum", None)
    return record


def find(root: Path, run: str | None) -> Path:
    """See `Store.run_path`."""
    if run is None:
        pointers = sorted((root / "latest").glob("*"), key=lambda path: path.lstat().st_mtime_ns)
        pointers = [path for path in pointers if not path.name.startswith(".")]
        if not pointers:
            raise StoreError(f"store {root} holds no run yet; start one with `lumina run CONFIG`")
        run = pointers[-1].name
    if not is_name(run):
        raise StoreError(f"store {root} holds no run {run!r}: that is no name of a run, nor an id")
    pointer = root / "latest" / run
    run_id = _pointed(pointer) or run
    path = root / "runs" / f"{run_id}.json"
    if not path.is_file() and run_id != run:
        raise StoreError(f"{pointer} names the run {run_id!r}, whose record {path} is not there; give a run by its id")
    if not path.is_file():
        known = sorted(pointer.name for pointer in (root / "latest").glob("[!.]*"))
        raise StoreError(f"store {root} holds no run {run!r}; names: {', '.join(known) or 'none'}")
    return path


def _pointed(pointer: Path) -> str | None:
    try:
        found = read_text(pointer)
        if not is_name(found):
            raise ValueError(f"it says {found!r:.80}, which is no id of a run")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{pointer} is damaged ({error}); give a run by its id") from error
    return found
