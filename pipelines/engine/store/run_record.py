"""Records of runs below the directory of a store: `runs/<run id>.json`, and `latest/<run name>` with an id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

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
    plain,
    read_text,
)
from pipelines.errors import StoreError
from pipelines.secrets import scrubbed


def _moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """One stage in the record of a run."""

    state: Text = ""
    fingerprint: Fingerprint | None
    """None, as digest and path, for a stage that did not finish."""
    digest: Text | None
    path: Below | None = None
    """Where its output lies, relative to the store."""
    inputs: Mapping[Text, Text] = field(default_factory=dict)
    """Input key -> stage that is read."""
    drift: Text = ""
    """See `StageOutcome.drift`."""
    seconds: Number = 0.0
    """Time this run spent on it."""
    error: Text = ""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """How a run ended, or where it stands."""

    schema: Literal["lumina.run/1"] = "lumina.run/1"
    run: Name
    """Its id."""
    name: Name
    pipeline: Text = ""
    started: Annotated[Text, AfterValidator(_moment)]
    """ISO 8601."""
    seconds: Number = 0.0
    ok: Truth = False
    """Whether every stage of the pipeline, as far as it was wanted, is done."""
    until: Text | None = None
    """The last stage that was wanted; None if the pipeline was not cut."""
    media_root: Text = ""
    """Directory against which relative URIs of clips resolve, relative to the store where it lies in it; empty if the
    run has none, or not yet."""
    stages: Mapping[Name, StageEntry]
    lock: Mapping[Text, Any] | None = None
    """See `pipelines.run_lock`."""
    rerun: Mapping[Text, Any] | None = None
    """Verdict over this run as a rerun of another; see `pipelines.rerun.verdict`."""

    @property
    def began(self) -> float:
        """`started` in seconds since the epoch."""
        return datetime.fromisoformat(self.started).timestamp()

    def to_json(self) -> str:
        """Indented JSON text without secrets, with a checksum of itself; see `pipelines.engine.store.checksum`."""
        return seal(json.dumps(scrubbed(plain(self)), indent=1))

    @classmethod
    def load(cls, path: Path, sealed: bool = True) -> RunRecord:
        """The record in a file.

        Args:
            path: the file.
            sealed: whether its checksum must be right.

        Raises:
            StoreError: it is damaged, or was edited.
        """
        try:
            text = read_text(path)
            record = checked(cls, parse(text))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}): restore it, or run the pipeline again") from error
        if sealed and not is_whole(text):
            raise StoreError(
                f"{path} was edited: its checksum is not that of what it says, and nothing acts on it: restore it, or "
                "run the pipeline again"
            )
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
