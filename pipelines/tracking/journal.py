"""Journal of one run's tracking events: written before MLflow is told, removed when MLflow has it all.

    <store>/tracking/<run>.jsonl            a header, then one event per line
    <store>/tracking/<run>.held.jsonl       the same, of which a part was left out that somebody can make possible
    <store>/tracking/<run>.refused.jsonl    events that MLflow would not take, each with its error

Whoever writes a journal, or replays it, holds a lock on the file, which the system frees when the process ends. So a
journal that is there and not locked is one that still has to be written to MLflow: its server was away, or its driver
was killed.
"""

from __future__ import annotations

import fcntl
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from pipelines.engine.store.typed import Name, Text, checked, parse
from pipelines.errors import StoreError
from pipelines.secrets import scrub
from pipelines.tracking.events import Event, read_event

SCHEMA = "lumina.tracking/3"
_FOLDER = "tracking"
_REFUSED = ".refused.jsonl"
_HELD = ".held.jsonl"
_HEADER_CHARS = 1 << 16


@dataclass(frozen=True)
class _Header:
    schema: Literal["lumina.tracking/3"]
    run: Name
    uri: Text | None


class Journal:
    """An open, locked journal.

    Attributes:
        path: the file.
        run: id of the pipeline run.
        uri: MLflow tracking URI, without its password; None stands for the store's own database, also after the store
            was moved.
    """

    def __init__(self, path: Path, run: str, uri: str | None, file: IO[str]) -> None:
        self.path, self.run, self.uri, self._file = path, run, uri, file

    @classmethod
    def create(cls, store: Path, run: str, uri: str | None) -> Self:
        """Begin the journal of a run; OSError if it cannot be written."""
        path = store / _FOLDER / f"{run}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        journal = cls(path, run, uri, file)
        journal.append({"schema": SCHEMA, "run": run, "uri": uri})
        return journal

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """Open a journal that nobody works on; None if somebody does, or it has gone.

        Raises:
            StoreError: it is not a journal.
        """
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise StoreError(f"{path} is no journal of tracking events: it is a link, or no file at all")
            file = path.open("r+", encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        try:
            header = checked(_Header, parse(file.readline(_HEADER_CHARS)))
            if header.run != run_of(path):
                raise ValueError(f"it is of run {header.run}")
            return cls(path, header.run, header.uri, file)
        except ValueError as error:
            file.close()
            raise StoreError(
                f"{path} is no journal of tracking events ({error}): move it elsewhere if you know what it is"
            ) from error

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event; OSError if it cannot be written."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def read(self) -> tuple[list[Event], list[tuple[dict[str, Any], ValueError]]]:
        """All events, and what no run writes, with the reason: nobody acts on it. A last line that a kill cut short is
        neither."""
        events, strange = [], []
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                if line.endswith(b"\n"):
                    data: Any = line.decode(errors="replace").strip()
                    try:
                        data = parse(line.decode())
                        events.append(read_event(data))
                    except ValueError as error:
                        strange.append((data if isinstance(data, dict) else {"event": data}, error))
        return events, strange

    def refuse(self, event: Mapping[str, Any], error: Exception) -> Path:
        """Put aside an event that MLflow would not take; returns the file."""
        path = self.path.with_name(f"{self.run}{_REFUSED}")
        line = json.dumps({"error": scrub(f"{type(error).__name__}: {error}"), **event}) + "\n"
        if not path.exists() or line not in path.read_text(encoding="utf-8").splitlines(keepends=True):
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        return path

    def finish(self, left_out: bool) -> None:
        """MLflow has it all; or all but a part, which is tried again when the user asks for it, and by no other run."""
        if left_out:
            held = self.path.with_name(f"{self.run}{_HELD}")
            self.path.replace(held)
            self.path = held
        else:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it for another to replay."""
        self._file.close()


def waiting(store: Path, held: bool = False) -> tuple[Path, ...]:
    """The journals in a store, the oldest run first; those of runs that go on are among them, and `held` ones if asked
    for."""
    found = (store / _FOLDER).glob("*.jsonl")
    left_out = (_REFUSED,) if held else (_REFUSED, _HELD)
    return tuple(sorted(path for path in found if not path.name.endswith(left_out)))


def refused(store: Path) -> tuple[Path, ...]:
    """The files of events that MLflow would not take."""
    return tuple(sorted((store / _FOLDER).glob(f"*{_REFUSED}")))


def run_of(journal: Path) -> str:
    """Id of the pipeline run whose journal a file is."""
    return journal.name.removesuffix(_HELD).removesuffix(".jsonl")
