"""Records of runs below the directory of a store: `runs/<run id>.json`, and `latest/<run name>` with an id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from pipelines.engine.store.checksum import is_whole, seal
from pipelines.engine.store.objects import Objects
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
    def load(cls, objects: Objects, run: str, sealed: bool = True) -> RunRecord:
        """The record of a run.

        Args:
            objects: of the store.
            run: its id.
            sealed: whether its checksum must be right.

        Raises:
            StoreError: it is not there, damaged, or was edited.
        """
        where = objects.name(run_key(run))
        try:
            found = objects.read(run_key(run))
            if found is None:
                raise StoreError(f"{where} is not there")
            record = checked(cls, parse(found.text))
        except ValueError as error:
            raise StoreError(f"{where} is damaged ({error}): restore it, or run the pipeline again") from error
        if sealed and not is_whole(found.text):
            raise StoreError(
                f"{where} was edited: its checksum is not that of what it says, and nothing acts on it: restore it, or "
                "run the pipeline again"
            )
        return record


def run_key(run: str) -> str:
    """Of the record of a run, by its id."""
    return f"runs/{run}.json"


def run_ids(objects: Objects) -> list[str]:
    """Of all runs that have a record, sorted."""
    return sorted(name.removesuffix(".json") for name, _ in _below(objects, "runs") if name.endswith(".json"))


def run_names(objects: Objects) -> list[str]:
    """Of all runs, the one with the newest run last."""
    return [name for name, _ in sorted(_below(objects, "latest"), key=lambda one: one[1])]


def find_run(objects: Objects, run: str | None) -> str:
    """See `Store.run_id`."""
    store, names = objects.name("").rstrip("/"), run_names(objects)
    if run is None:
        if not names:
            raise StoreError(f"store {store} holds no run yet; start one with `lumina run CONFIG`")
        run = names[-1]
    if not is_name(run):
        raise StoreError(f"store {store} holds no run {run!r}: that is no name of a run, nor an id")
    found, pointer = run, f"latest/{run}"
    try:
        if (pointed := objects.read(pointer)) is not None:
            found = pointed.text
            if not is_name(found):
                raise ValueError(f"it says {found!r:.80}, which is no id of a run")
    except ValueError as error:
        raise StoreError(f"{objects.name(pointer)} is damaged ({error}); give a run by its id") from error
    if found in run_ids(objects):
        return found
    if found != run:
        raise StoreError(
            f"{objects.name(pointer)} names the run {found!r}, whose record {objects.name(run_key(found))} is not "
            "there; give a run by its id"
        )
    raise StoreError(f"store {store} holds no run {run!r}; names: {', '.join(sorted(names)) or 'none'}")


def _below(objects: Objects, folder: str) -> list[tuple[str, float]]:
    """Names of the objects in a folder, with their times; half-written ones begin with a dot."""
    found = ((entry.key.removeprefix(f"{folder}/"), entry.modified) for entry in objects.entries(folder))
    return [(name, modified) for name, modified in found if is_name(name) and not name.startswith(".")]
