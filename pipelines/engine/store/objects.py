"""Objects of a store: small records by key, below a directory here, and in a bucket in `pipelines.engine.store.bucket`.

A record is created only where there is none, and replaced only if it is still the one that was read, so that of many
writers one wins.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from lumina.files import replace_file
from pipelines.engine.store.atomic_io import link_new, sync_directory, write_synced
from pipelines.engine.store.typed import read_text
from pipelines.errors import StoreError, disk_problem

Tag = Mapping[str, str]
"""A version of an object."""


@dataclass(frozen=True)
class Record:
    """A small object as it was read."""

    text: str
    tag: Tag
    modified: float
    """Seconds since the epoch, by the store's clock."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    key: str
    bytes: int | None
    """None for what is no file, but a link or a pipe."""
    modified: float
    """Seconds since the epoch, by the store's clock."""


class Objects(Protocol):
    """Objects below one root. Every error of disk or bucket is a StoreError that names the object."""

    every_s: ClassVar[float]
    """Seconds after which a run shall tell again how it stands."""
    stamps: ClassVar[bool]
    """Whether replacing a record by the same text shows in its age."""

    def check(self) -> None:
        """Raises StoreError where a store cannot work."""

    def name(self, key: str) -> str:
        """What an object is called where it lies: a path or a URI."""

    def read(self, key: str) -> Record | None:
        """A small object; None if there is none.

        Raises:
            ValueError: what is there is no text, or no file but a link to one.
        """

    def create(self, key: str, text: str) -> Tag | None:
        """Put a record where there is none; None if there is one."""

    def replace(self, key: str, text: str, tag: Tag | None) -> Tag | None:
        """Put a record in place of the version `tag`, or of none; None if another one is there by now, or none."""

    def put(self, key: str, content: str | bytes, sync: bool = False) -> None:
        """Put an object, whatever is there; with `sync`, it is on the disk before it has its name."""

    def get(self, key: str) -> bytes | None:
        """All bytes of an object; None if there is none."""

    def remove(self, key: str, tag: Tag | None = None) -> None:
        """Remove an object, or only that version of it; nothing happens if there is none."""

    def rename(self, key: str, name: str) -> None:
        """Give an object another key; nothing happens if there is none."""

    def entries(self, prefix: str) -> list[Entry]:
        """All objects below `prefix/`, and links there may be, but nothing behind one: it may lead anywhere."""

    def folders(self, prefix: str) -> list[str]:
        """Names of what lies directly below `prefix/` and has objects of its own."""

    def age(self, key: str, record: Record) -> float:
        """Seconds for which a record has been as it is, as far as this process can know: too few rather than too many.

        Hosts may have other clocks than the store.
        """


@dataclass(frozen=True)
class LocalObjects:
    """Files below a directory; see `Objects`.

    What is replaced is guarded by a lock beside it (`LEASE.lock` of `LEASE.json`), which ends with the process. What is
    created relies on `link` alone.
    """

    root: Path
    every_s: ClassVar[float] = 2.0
    stamps: ClassVar[bool] = True

    def check(self) -> None:
        """Make the directory, and see that it can be written."""
        try:
            (self.root / "cache").mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".write-test-") as file:
                file.write(b"x")
        except OSError as error:
            raise StoreError(
                f"store {self.root} cannot be written ({error.strerror}); choose another with --store"
            ) from error

    def name(self, key: str) -> str:
        """See `Objects.name`."""
        return str(self.root / key)

    def read(self, key: str) -> Record | None:
        """See `Objects.read`."""
        path = self.root / key
        with self._named(key):
            try:
                text = read_text(path)
                # Of one that was replaced in between, too young a time: nobody takes a lease over too early.
                return Record(text, {"text": text}, path.stat().st_mtime)
            except FileNotFoundError:
                return None

    def create(self, key: str, text: str) -> Tag | None:
        """See `Objects.create`. It is on the disk before it has its name; a FileNotFoundError if its folder is gone."""
        path = self.root / key
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            write_synced(temporary, text)
            if not link_new(temporary, path):
                return None
            temporary.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(disk_problem(error, path)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return {"text": text}

    def replace(self, key: str, text: str, tag: Tag | None) -> Tag | None:
        """See `Objects.replace`."""
        path = self.root / key
        with self._named(key):
            if tag is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(key) as there:
                if not there or self._tag(key) != tag:
                    return None
                if tag == {"text": text}:
                    os.utime(path)  # which a full disk allows
                else:
                    replace_file(path, text.encode())
        return {"text": text}

    def put(self, key: str, content: str | bytes, sync: bool = False) -> None:
        """See `Objects.put`."""
        with self._named(key):
            replace_file(self.root / key, content.encode() if isinstance(content, str) else content, sync)

    def get(self, key: str) -> bytes | None:
        """See `Objects.get`."""
        with self._named(key), contextlib.suppress(FileNotFoundError):
            return (self.root / key).read_bytes()
        return None

    def remove(self, key: str, tag: Tag | None = None) -> None:
        """See `Objects.remove`."""
        with self._named(key):
            if tag is None:
                (self.root / key).unlink(missing_ok=True)
                return
            with self._locked(key) as there:
                if there and self._tag(key) == tag:
                    (self.root / key).unlink()

    def rename(self, key: str, name: str) -> None:
        """See `Objects.rename`."""
        with self._named(key), contextlib.suppress(FileNotFoundError):
            (self.root / key).rename(self.root / name)

    def entries(self, prefix: str) -> list[Entry]:
        """See `Objects.entries`."""
        found, below = [], [prefix]
        while below:
            folder = below.pop()
            for one in self._listed(folder):
                key = f"{folder}/{one.name}"
                if one.is_dir(follow_symlinks=False):
                    below.append(key)
                    continue
                with contextlib.suppress(FileNotFoundError):  # it was removed in the meantime
                    known = one.stat(follow_symlinks=False)
                    size = known.st_size if stat.S_ISREG(known.st_mode) else None
                    found.append(Entry(key, size, known.st_mtime))
        return found

    def folders(self, prefix: str) -> list[str]:
        """See `Objects.folders`."""
        return sorted(one.name for one in self._listed(prefix) if one.is_dir())

    def _listed(self, folder: str) -> list[os.DirEntry[str]]:
        missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with self._named(folder), missing, os.scandir(self.root / folder) as there:
            return list(there)
        return []

    def age(self, key: str, record: Record) -> float:
        """See `Objects.age`: by the file server's clock, off a file that is touched beside it."""
        with self._named(key), self._lock(key).open("a") as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime - record.modified

    def _tag(self, key: str) -> Tag | None:
        try:
            return {"text": read_text(self.root / key)}
        except FileNotFoundError:
            return None
        except ValueError:
            return {}

    def _lock(self, key: str) -> Path:
        return (self.root / key).with_suffix(".lock")

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[bool]:
        """Guard reading and then writing a record; False where its folder is gone."""
        try:
            file = self._lock(key).open("a")
        except FileNotFoundError:
            yield False
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield True

    @contextlib.contextmanager
    def _named(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(disk_problem(error, self.root / key)) from error
