"""Place of an export: a folder, or what stands for one in a bucket; a file gets its name in it once it is whole."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from curation.export_formats import CLIPS_FOLDER
from curation.manifest_shards import EXPORT_WORK
from lumina.files import PARTIAL, replace_file, replacing


class ExportFolderError(ValueError):
    """The place cannot take the export; the message says what to do."""


class ExportPlace(Protocol):
    """Files by name, with `/` between folders. OSError, or an error of the place's own, where it cannot be used."""

    @property
    def name(self) -> str:
        """What it is called: a path or a URI."""

    def names(self, folder: str) -> Mapping[str, int | None]:
        """Names of what lies directly in a folder (empty: the place itself): bytes of a file, None of a folder.

        ExportFolderError if the place is no folder.
        """

    def read(self, name: str) -> bytes | None:
        """A small file; None if there is none."""

    def put(self, name: str, content: bytes) -> None:
        """Put a small file in place of an older one, or of none."""

    def take(self, path: Path, name: str) -> None:
        """Bring a file of this machine there, which is then no longer here."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def alone(self) -> AbstractContextManager[Path]:
        """Have the place for oneself, and an empty scratch folder on this machine; ExportFolderError where another
        process exports there."""

    def clear(self) -> None:
        """Remove what there is below `EXPORT_WORK`; whoever calls it is alone."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine; see `ExportPlace`."""

    path: Path

    @property
    def name(self) -> str:
        """See `ExportPlace.name`."""
        return str(self.path)

    def names(self, folder: str) -> dict[str, int | None]:
        """See `ExportPlace.names`."""
        path = self.path / folder
        if not self.path.exists() and not self.path.is_symlink():
            return {}
        if not self.path.is_dir():
            raise ExportFolderError(f"{self.path} is no folder: name another place for the export")
        if not path.is_dir():
            return {}
        return {one.name: one.stat().st_size if one.is_file() else None for one in path.iterdir()}

    def read(self, name: str) -> bytes | None:
        """See `ExportPlace.read`."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def put(self, name: str, content: bytes) -> None:
        """See `ExportPlace.put`."""
        replace_file(self.path / name, content, sync=True)

    def take(self, path: Path, name: str) -> None:
        """See `ExportPlace.take`; the scratch folder is on the same disk."""
        with replacing(self.path / name, sync=True) as unnamed:
            path.replace(unnamed)

    def remove(self, name: str) -> None:
        """See `ExportPlace.remove`."""
        (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """See `ExportPlace.alone`."""
        work = self.path / EXPORT_WORK
        work.mkdir(parents=True, exist_ok=True)
        with (work / "LOCK").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExportFolderError(f"another process exports into {self.path}: wait until it is done") from None
            for stale in (*self.path.glob(PARTIAL), *self.path.glob(f"{CLIPS_FOLDER}/*/{PARTIAL}")):
                stale.unlink()
            shutil.rmtree(work / "scratch", ignore_errors=True)
            (work / "scratch").mkdir()
            yield work / "scratch"

    def clear(self) -> None:
        """See `ExportPlace.clear`."""
        shutil.rmtree(self.path / EXPORT_WORK)
