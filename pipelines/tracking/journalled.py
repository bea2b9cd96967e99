"""Events as a journal holds them, checked before they are believed: whoever can write to the store can write one.

An event may name files of a run's outputs, which are uploaded. They are taken from the store that the journal lies in,
and only those that the record of their stage lists, as it was sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import directory_name
from pipelines.engine.store.typed import Below, Name, Number, Text, Whole, checked, is_name, read_text


@dataclass(frozen=True)
class _Event:
    event: Text
    at_ms: Whole


@dataclass(frozen=True)
class _BeginRun(_Event):
    name: Name
    run: Name
    tags: Mapping[Text, Text]
    config: Mapping[Text, Any]


@dataclass(frozen=True)
class _Dataset:
    name: Text
    digest: Text
    uri: Text
    profile: Mapping[Text, Any]
    keys: tuple[Text, ...] = ()


@dataclass(frozen=True)
class _BeginStage(_Event):
    stage: Name
    kind: Text
    fingerprint: Text
    params: Mapping[Text, Text]
    inputs: tuple[_Dataset, ...]
    attempt: Whole | None
    earlier: tuple[Text, ...]


@dataclass(frozen=True)
class _Point(_Event):
    stage: Name
    metrics: Mapping[Text, Number]
    step: Whole
    time_ms: Whole


@dataclass(frozen=True)
class _Told:
    """What an event tells of a manifest."""

    digest: Text
    fingerprint: Text
    origin: Mapping[Text, Text]
    metrics: Mapping[Text, Number]
    drift: Text = ""


@dataclass(frozen=True)
class _EndStage(_Event):
    stage: Name
    state: Literal["cached", "done", "failed", "blocked", "interrupted"]
    error: Text
    manifest: _Told | None
    manifest_path: Text = ""
    output: _Dataset | None = None


@dataclass(frozen=True)
class _Artifacts(_Event):
    stage: Name
    names: tuple[Below, ...]
    path: Text
    manifest_path: Text


@dataclass(frozen=True)
class _Prompts(_Event):
    stage: Name
    texts: Mapping[Text, Text]


@dataclass(frozen=True)
class _RegisteredModel:
    name: Text
    alias: Text
    what: Text
    use: Text


@dataclass(frozen=True)
class _Model(_Event):
    stage: Name
    model: _RegisteredModel
    manifest: _Told
    path: Text
    uri: Text
    manifest_path: Text


@dataclass(frozen=True)
class _Evaluation(_Event):
    stage: Name
    name: Text
    fingerprint: Text
    params: Mapping[Text, Text]
    metrics: Mapping[Text, Number]
    step: Whole
    names: tuple[Below, ...]
    path: Text
    manifest_path: Text
    began_ms: Whole
    ended_ms: Whole
    inputs: tuple[_Dataset, ...] = ()
    output: _Dataset | None = None


@dataclass(frozen=True)
class _EndRun(_Event):
    state: Text


_KINDS: Mapping[str, type[_Event]] = {
    "begin_run": _BeginRun,
    "begin_stage": _BeginStage,
    "point": _Point,
    "end_stage": _EndStage,
    "artifacts": _Artifacts,
    "prompts": _Prompts,
    "model": _Model,
    "evaluation": _Evaluation,
    "end_run": _EndRun,
}


@dataclass(frozen=True)
class Header:
    """First line of a journal."""

    schema: Literal["lumina.tracking/1"]
    run: Name
    uri: Text | None


def checked_event(event: Any, store: Path) -> dict[str, Any]:
    """An event of a journal in `store`, with its files where that is now.

    Raises:
        ValueError: no run writes such an event, or it names files that are no outputs of the store.
    """
    kind = _KINDS.get(str(event.get("event"))) if isinstance(event, dict) else None
    if kind is None:
        raise ValueError("it is no event that a run tells of")
    checked(kind, event)
    found = dict(event)
    if found.get("names"):
        found["path"] = str(_output(found["path"], found["manifest_path"], found["names"], store))
    return found


def _output(path: str, manifest_path: str, names: Sequence[str], store: Path) -> Path:
    """The directory of an output with these files. The store may have been moved since the event was told."""
    *folder, attempt = _in_store(path)
    *record_folder, record_name = _in_store(manifest_path)
    record = store.joinpath(*record_folder, record_name)
    try:
        manifest = Manifest.from_sealed(read_text(record))
    except (OSError, ValueError) as error:
        raise ValueError(f"{record} cannot be read ({error}), so nobody knows which files are its own") from error
    computed = directory_name(manifest.fingerprint)
    out = store.joinpath(*folder, attempt)
    if (folder, attempt) != (["stages", manifest.stage, computed], manifest.attempt):
        raise ValueError(f"{out} is not the output of which {record} tells")
    if strange := sorted(set(names) - {file.path for file in manifest.files}):
        raise ValueError(f"{out / strange[0]} is no file that {record} lists")
    return out


def _in_store(path: str) -> tuple[str, ...]:
    """The last parts of a path, such that they begin where a store does."""
    tail = PurePosixPath(path).parts[-4:]
    if len(tail) < 4 or tail[0] != "stages" or not all(map(is_name, tail)):
        raise ValueError(f"{path!r:.200} is no output of a store")
    return tail
