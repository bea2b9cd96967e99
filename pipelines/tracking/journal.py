"""The journal of one run's tracking events: written before MLflow is told, removed when MLflow has it all.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from pipelines.engine.store.typed import checked, parse
from pipelines.errors import StoreError
from pipelines.secrets import scrub
from pipelines.tracking.journalled import Header, checked_event

SCHEMA = "lumina.tracking/1"
_FOLDER = "tracking"
_REFUSED = ".refused.jsonl"
_HELD = ".held.jsonl"
_HEADER_CHARS = 1 << 16


@dataclass
class Read:
    """What a journal holds."""

    events: list[dict[str, Any]]
    broken: int
    """Lines that are no JSON."""
    strange: list[tuple[dict[str, Any], ValueError]]
    """What no run writes, with the reason: nobody acts on it."""


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
            header = checked(Header, parse(file.readline(_HEADER_CHARS)))
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

    def read(self) -> Read:
        """All events; a last line that a kill cut short is none."""
        found = Read([], 0, [])
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                if not line.endswith(b"\n"):
                    continue
                try:
                    event = parse(line.decode())
                except ValueError:
                    found.broken += 1
                    continue
                try:
                    found.events.append(checked_event(event, self.path.parents[1]))
                except ValueError as error:
                    found.strange.append((event if isinstance(event, dict) else {"event": event}, error))
        return found

    def refuse(self, events: Sequence[Mapping[str, Any]], error: Exception) -> Path:
        """Put aside events that MLflow would not take; returns the file."""
        path = self.path.with_name(f"{self.run}{_REFUSED}")
        known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
        lines = [json.dumps({"error": scrub(f"{type(error).__name__}: {error}"), **event}) for event in events]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines if line not in known)
        return path

    def hold(self) -> None:
        """MLflow has it but for a part, which is tried again when the user asks for it; no other run does."""
        held = self.path.with_name(f"{self.run}{_HELD}")
        self.path.replace(held)
        self.path = held
        self._file.close()

    def remove(self) -> None:
        """MLflow has it all."""
        self.path.unlink(missing_ok=True)
        self._file.close()

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
