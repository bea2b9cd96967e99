"""Tracking events: one type for each thing that a run tells MLflow, and how it stands in a file.

An event names an output and does not say what is in it: whoever applies it reads the output's manifest. So an event can
be applied later, by another process and to another server. Whoever can write to the store can write one into a journal:
`read_event` takes no other shapes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pipelines.engine.events import OutcomeState
from pipelines.engine.stage import RegisteredModel
from pipelines.engine.store.typed import Below, Fingerprint, Name, Number, Text, Whole, checked, plain


def now_ms() -> int:
    """Milliseconds since the epoch, which is how MLflow tells the time."""
    return int(time.time() * 1000)


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
    fingerprint: Fingerprint | None = None
    """None for a stage that failed before it was known."""
    params: Mapping[Text, Text] = field(default_factory=dict)
    inputs: Mapping[Text, tuple[Text, Text]] = field(default_factory=dict)
    """Input key -> stage that is read, and the digest of its output."""
    attempt: Whole | None = None
    earlier: tuple[Text, ...] = ()
    system_prompts: Below | None = None
    """File of the output to be mirrored in the prompt registry."""
    model: RegisteredModel | None = None
    """The output is a checkpoint to register."""


@dataclass(frozen=True, kw_only=True)
class LogPoint(_StageEvent):
    """A stage logged a point of its curves."""

    point: Point


@dataclass(frozen=True, kw_only=True)
class LogImage(_StageEvent):
    """A stage made a picture of a series: the same prompt at another step."""

    key: Text
    """Of the series."""
    step: Whole
    file: Below
    """Below the stage's scratch directory while it runs, and below its output in the end."""


@dataclass(frozen=True, kw_only=True)
class EndStage(_StageEvent):
    """A stage ended; `drift` is the code that differs since its output was computed."""

    state: OutcomeState
    error: Text = ""
    output: Name | None = None
    """Directory of its output beside the manifest; None if there is none."""
    drift: Text = ""


Event = BeginRun | EndRun | BeginStage | LogPoint | LogImage | EndStage
StageEvent = BeginStage | LogPoint | LogImage | EndStage
_KINDS: Mapping[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def plain_event(event: Event) -> dict[str, Any]:
    """An event as JSON has it."""
    return {"event": type(event).__name__, **plain(event)}


def read_event(data: Any) -> Event:
    """The event of `plain_event`. ValueError if no run writes such an event."""
    kind = _KINDS.get(str(data.get("event"))) if isinstance(data, dict) else None
    if kind is None:
        raise ValueError("it is no event that a run tells of")
    return checked(kind, {key: value for key, value in data.items() if key != "event"})
