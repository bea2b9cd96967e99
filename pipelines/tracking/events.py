"""Tracking events: one type for each thing that a run tells MLflow, whole in itself, and how it stands in a file.

So an event can be applied later, by another process and to another server. Whoever can write to the store can write one
into a journal: `read_event` takes no other shapes, and only files that the sealed record of their stage lists.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from pipelines.engine.events import OutcomeState
from pipelines.engine.store.attempt import directory_name
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.typed import Below, Name, Number, Text, Whole, checked, is_name, read_text


def now_ms() -> int:
    """Milliseconds since the epoch, which is how MLflow tells the time."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class Output:
    """What a stage made. Of an input that no stage of this run was asked for, the digest alone is known."""

    stage: Text
    digest: Text
    fingerprint: Text = ""
    path: Text = ""
    profile: Mapping[Text, Any] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Where it is; empty if unknown."""
        return self.path and Path(self.path).as_uri()

    @property
    def manifest(self) -> str:
        """File with its record."""
        return str(Path(self.path).parent / "MANIFEST.json")


Inputs = tuple[tuple[Output, Text], ...]
"""What a stage reads, and the names under which it does."""


@dataclass(frozen=True)
class Point:
    """One step of a stage's curves."""

    metrics: Mapping[Text, Number]
    step: Whole
    time_ms: Whole


@dataclass(frozen=True, kw_only=True)
class _Event:
    at_ms: Whole = field(default_factory=now_ms)


@dataclass(frozen=True, kw_only=True)
class BeginRun(_Event):
    """A pipeline run begins; `config` is its resolved configuration."""

    name: Name
    run: Name
    tags: Mapping[Text, Text]
    config: Mapping[Text, Any]


@dataclass(frozen=True, kw_only=True)
class EndRun(_Event):
    """The pipeline run ends as FINISHED, FAILED or KILLED."""

    state: Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class _StageEvent(_Event):
    stage: Name


@dataclass(frozen=True, kw_only=True)
class BeginStage(_StageEvent):
    """A stage was found, or an attempt at it begins: then `earlier` has the runs of those before it."""

    kind: Text
    fingerprint: Text = ""
    params: Mapping[Text, Text] = field(default_factory=dict)
    inputs: Inputs = ()
    attempt: Whole | None = None
    earlier: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LogPoint(_StageEvent):
    """A stage logged a point of its curves."""

    point: Point


@dataclass(frozen=True, kw_only=True)
class EndStage(_StageEvent):
    """A stage ended; `origin` is the MLflow run that computed its output, `drift` the code that differs since."""

    state: OutcomeState
    error: Text = ""
    output: Output | None = None
    origin: Mapping[Text, Text] = field(default_factory=dict)
    drift: Text = ""
    metrics: Mapping[Text, Number] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Artifacts(_StageEvent):
    """Files of an output to upload."""

    output: Output
    names: tuple[Below, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Artifacts):
    """An evaluation of a checkpoint; the times are those of the work, not of its being told."""

    name: Text
    params: Mapping[Text, Text]
    metrics: Mapping[Text, Number]
    step: Whole
    began_ms: Whole
    ended_ms: Whole
    inputs: Inputs


@dataclass(frozen=True, kw_only=True)
class Prompts(_StageEvent):
    """Texts of the system prompts by source."""

    texts: Mapping[Text, Text]


@dataclass(frozen=True, kw_only=True)
class Model(_StageEvent):
    """A checkpoint to register; see `pipelines.engine.stage.RegisteredModel`."""

    output: Output
    name: Text
    alias: Text
    what: Text
    use: Text


Event = BeginRun | EndRun | BeginStage | LogPoint | EndStage | Artifacts | Prompts | Model
StageEvent = BeginStage | LogPoint | EndStage | Artifacts | Prompts | Model
_KINDS: Mapping[str, type[Event]] = {kind.__name__: kind for kind in (*get_args(Event), Evaluation)}


def plain_event(event: Event) -> dict[str, Any]:
    """An event as JSON has it."""
    return {"event": type(event).__name__, **asdict(event)}


def read_event(data: Any, store: Path | None = None) -> Event:
    """The event of `plain_event`; one that comes from a journal in `store` has its files where that is now.

    Raises:
        ValueError: no run writes such an event, or it names files that are no outputs of the store.
    """
    kind = _KINDS.get(str(data.get("event"))) if isinstance(data, dict) else None
    if kind is None:
        raise ValueError("it is no event that a run tells of")
    event = checked(kind, {key: value for key, value in data.items() if key != "event"})
    if store is not None and isinstance(event, Artifacts) and event.names:
        return replace(event, output=replace(event.output, path=str(_output_of(event, store))))
    return event


def _output_of(event: Artifacts, store: Path) -> Path:
    """The directory of an output with these files. The store may have been moved since the event was told."""
    tail = PurePosixPath(event.output.path).parts[-4:]
    if len(tail) < 4 or tail[0] != "stages" or not all(map(is_name, tail)):
        raise ValueError(f"{event.output.path!r:.200} is no output of a store")
    out = store.joinpath(*tail)
    record = out.parent / "MANIFEST.json"
    try:
        manifest = Manifest.from_sealed(read_text(record))
    except (OSError, ValueError) as error:
        raise ValueError(f"{record} cannot be read ({error}), so nobody knows which files are its own") from error
    if tail[1:] != (manifest.stage, directory_name(manifest.fingerprint), manifest.attempt):
        raise ValueError(f"{out} is not the output of which {record} tells")
    if strange := sorted(set(event.names) - {file.path for file in manifest.files}):
        raise ValueError(f"{out / strange[0]} is no file that {record} lists")
    return out
