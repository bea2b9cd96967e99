"""Status of a run for another terminal: a small text in the store while the run goes on, its record after that."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pipelines.engine.events import Display
from pipelines.engine.store.lease import is_here, process_start, this_machine
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.engine.store.typed import checked, parse
from pipelines.errors import StoreError
from pipelines.reports.progress import StageProgress
from pipelines.secrets import scrubbed

_SILENT_S = 30.0
_SILENT_TIMES = 6
"""A run that was not heard of for so long, and as many times as it should be, is silent: on another host it is taken
for dead."""
_END_S = 10.0
"""That the end of a run waits for the store."""
_NOTES = 5
_OLD = "`lumina status` may show an old state"
Standing = Literal["running", "silent", "done", "failed", "stopped", "killed"]
GOING = ("running", "silent")
"""A run that has not ended."""


@dataclass
class RunStatus:
    """A run as it stands. Times are seconds since the epoch."""

    run: str
    name: str
    started: float
    stages: dict[str, StageProgress]
    """In the order in which they are listed."""
    upstream: dict[str, list[str]]
    """What each stage reads."""
    command: str = ""
    """Continues the run."""
    links: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    host: str = ""
    pid: int = 0
    process_start: str = ""
    machine: str = ""
    """See `pipelines.engine.store.lease.this_machine`."""
    heard: float = 0.0
    """When the run last said something."""
    every_s: float = 0.0
    """Seconds after which it means to say something again."""
    ended: float = 0.0
    awaits: str = ""
    """What the run waits for to start, such as Ray; empty if nothing."""
    awaits_since: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return is_here(self.host, self.machine)

    @property
    def standing(self) -> Standing:
        """Whether it goes on, and how it ended if not; `silent` where its process is there, but says nothing."""
        states = {row.state for row in self.stages.values()}
        if self.ended:
            if "interrupted" in states:
                return "stopped"
            return "failed" if states & {"failed", "blocked"} else "done"
        silent = time.time() - self.heard >= max(_SILENT_S, _SILENT_TIMES * self.every_s)
        if self.is_here:
            if process_start(self.pid) != self.process_start:
                return "killed"
            return "silent" if silent else "running"
        return "killed" if silent else "running"

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Stages that failed, with what they said."""
        return [(name, row.detail) for name, row in self.stages.items() if row.state == "failed"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json` and the file."""
        return {**asdict(self), "standing": self.standing}


class StatusFile:
    """A display that keeps `live/<run id>.json` beside what it hands on; use it as a context.

    A file that cannot be written is told once, and stops nothing; nor does a bucket that does not answer.

    Args:
        inner: the display that the user looks at.
        store: where the file lies, or the object.
        status: the run as it begins.
    """

    def __init__(self, inner: Display, store: Store, status: RunStatus) -> None:
        self.inner, self.status, self.objects = inner, status, store.objects
        status.every_s = self.objects.every_s
        status.host, status.pid = socket.gethostname(), os.getpid()
        status.process_start, status.machine = process_start(status.pid) or "", this_machine()
        self._lock = threading.Lock()
        self._begun, self._closed = threading.Event(), threading.Event()
        self._told = False
        # Only this thread waits for the store.
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait(_END_S)
        return self

    def __exit__(self, *_: object) -> None:
        """The run has ended, and its record says how."""
        self._closed.set()
        self._thread.join(_END_S)
        if self._thread.is_alive():
            self.inner.note(f"the store does not answer for {_END_S:g} s: {_OLD}")

    def stage(self, name: str, state: str, detail: str = "") -> None:
        """A stage changed its state."""
        with self._lock:
            self.status.stages[name].enter(state, detail, time.time())
        self.inner.stage(name, state, detail)

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """A running stage got on."""
        with self._lock:
            self.status.stages[name].advance(done, total, unit, time.time())
        self.inner.progress(name, done, total, unit)

    def note(self, text: str) -> None:
        """A line for the user."""
        with self._lock:
            self.status.notes = [*self.status.notes, text][-_NOTES:]
        self.inner.note(text)

    def link(self, name: str, address: str) -> None:
        """Where else to look."""
        with self._lock:
            self.status.links[name] = address

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """The run waits for something to start, inside this context."""
        with self._lock:
            self.status.awaits, self.status.awaits_since = what, time.time()
        try:
            yield
        finally:
            with self._lock:
                self.status.awaits, self.status.awaits_since = "", 0.0

    def _beat(self) -> None:
        self._write()
        self._begun.set()
        while not self._closed.wait(self.objects.every_s):
            self._write()
        try:
            self.objects.remove(_key(self.status.run))
        except StoreError as error:
            # How the run ended is still to be told.
            self.inner.note(f"{error}: {_OLD}")

    def _write(self) -> None:
        with self._lock:
            self.status.heard = time.time()
            text = json.dumps(scrubbed(self.status.as_dict()))
        try:
            self.objects.put(_key(self.status.run), text)
        except StoreError as error:
            if not self._told:
                self._told = True
                self.inner.note(f"{error}: until it can be written, `lumina status` will not see this run")


def begin(run: str, name: str, stages: Sequence[str], upstream: Mapping[str, Sequence[str]], command: str) -> RunStatus:
    """The status of a run that begins now."""
    rows = {stage: StageProgress() for stage in stages}
    return RunStatus(run, name, time.time(), rows, {key: list(value) for key, value in upstream.items()}, command)


def read_status(store: Store, run: str | None) -> RunStatus:
    """How a run stands.

    Args:
        store: where the run puts its outputs.
        run: id or name; None means the newest that goes on, else the newest.

    Raises:
        StoreError: there is no such run.
    """
    live = [status for status in _live(store) if run in (None, status.run, status.name)]
    going = [status for status in live if status.standing in GOING]
    if going:
        return going[0]
    try:
        recorded = _from_record(store.get_run(run))
    except StoreError:
        if live:
            return live[0]
        raise
    # A run that was killed has no record: it may be newer than the newest that has.
    return live[0] if live and live[0].started > recorded.started else recorded


def _live(store: Store) -> list[RunStatus]:
    """What runs told of themselves, the newest first."""
    found = []
    for key in sorted(entry.key for entry in store.objects.entries("live") if not entry.key.startswith("live/.")):
        try:
            record = store.objects.read(key)
            if record is not None:  # else it has ended in the meantime
                found.append(checked(RunStatus, parse(record.text)))
        except ValueError as error:
            raise StoreError(f"{store.objects.name(key)} is damaged ({error}): remove it") from error
    return sorted(found, key=lambda status: (status.started, status.run), reverse=True)


def _key(run: str) -> str:
    return f"live/{run}.json"


def _from_record(record: RunRecord) -> RunStatus:
    ended = record.began + record.seconds
    stages = {
        name: StageProgress(entry.state, entry.error, ended - entry.seconds, ended)
        for name, entry in record.stages.items()
    }
    upstream = {name: list(entry.inputs.values()) for name, entry in record.stages.items()}
    command = str((record.lock or {}).get("command", ""))
    return RunStatus(record.run, record.name, record.began, stages, upstream, command, ended=ended)
