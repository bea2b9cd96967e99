"""Heartbeats of runs: a small text each, in a folder or in a bucket, for other terminals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from lumina.files import replace_file
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.typed import read_text
from pipelines.errors import StoreError


class Live(Protocol):
    """The texts of all runs on one store."""

    every_s: ClassVar[float]
    """Seconds after which a run shall tell again."""

    def put(self, run: str, text: str) -> None:
        """Replace what a run told.

        Raises:
            StoreError: it cannot be written.
        """

    def remove(self, run: str) -> None:
        """A run has ended; nothing happens if it told nothing.

        Raises:
            StoreError: it cannot be removed.
        """

    def read(self) -> list[tuple[str, str]]:
        """Where each text lies, and what it says; sorted by place.

        Raises:
            StoreError: one cannot be read.
        """


@dataclass(frozen=True)
class LiveFiles:
    """`<folder>/<run id>.json`; see `Live`."""

    folder: Path
    every_s: ClassVar[float] = 2.0

    def put(self, run: str, text: str) -> None:
        """See `Live.put`."""
        path = self._path(run)
        try:
            replace_file(path, text.encode())
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror})") from error

    def remove(self, run: str) -> None:
        """See `Live.remove`."""
        path = self._path(run)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be removed ({error.strerror})") from error

    def read(self) -> list[tuple[str, str]]:
        """See `Live.read`."""
        found = []
        for path in sorted(self.folder.glob("[!.]*.json")):
            try:
                found.append((str(path), read_text(path)))
            except FileNotFoundError:
                continue  # it has ended in the meantime
            except OSError as error:
                raise StoreError(f"{path} cannot be read ({error.strerror})") from error
            except ValueError as error:
                raise StoreError(f"{path} is damaged ({error}): remove it") from error
        return found

    def _path(self, run: str) -> Path:
        return self.folder / f"{run}.json"


@dataclass(frozen=True)
class LiveObjects:
    """`live/<run id>.json` in a bucket; see `Live`."""

    bucket: Bucket
    every_s: ClassVar[float] = 10.0

    def put(self, run: str, text: str) -> None:
        """See `Live.put`."""
        self.bucket.put(_key(run), text)

    def remove(self, run: str) -> None:
        """See `Live.remove`."""
        self.bucket.remove(_key(run))

    def read(self) -> list[tuple[str, str]]:
        """See `Live.read`."""
        keys = sorted(entry.key for entry in self.bucket.entries("live"))
        records = [(key, self.bucket.read(key)) for key in keys]
        # None has ended in the meantime.
        return [(self.bucket.name(key), record.text) for key, record in records if record is not None]


def _key(run: str) -> str:
    return f"live/{run}.json"
