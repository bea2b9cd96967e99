"""Garbage collection: delete outputs that no kept run refers to.

A run needs the output of every stage that its record names. What no record names belongs to a run that was killed; it
is kept until it is old, since the same command goes on from there. Whatever is in doubt stays. What writers that died
left beside the outputs goes too; see `pipelines.engine.store.orphans`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.engine.store.atomic_io import sync_directory
from pipelines.engine.store.attempt import directory_name
from pipelines.engine.store.lease import Holder, read_holder, try_acquire
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.objects import LocalObjects
from pipelines.engine.store.orphans import leftovers
from pipelines.engine.store.run_record import RunRecord, run_ids, run_names
from pipelines.engine.store.store import Store
from pipelines.engine.store.store_lock import alone
from pipelines.engine.store.typed import read_text
from pipelines.errors import StoreError

What = Literal["output", "attempt", "unfinished", "partial", "status"]
"""`attempt`: a directory that no record names; `unfinished`: work from which a run could go on; `partial`: a file that
was never written to its end; `status`: how a run stood that was killed."""
_DAY_S = 86400.0
Key = tuple[str, str]
"""Stage and name of the fingerprint's directory."""


@dataclass(frozen=True)
class Policy:
    """Which runs are kept, besides the newest of every name, the newest whole one, and those `latest/` names."""

    keep_runs: int = 1
    """Of every name, the newest."""
    older_than_days: float | None = None
    """Instead: all runs, and unfinished work, that are younger than this."""
    asked: tuple[str, ...] = ()
    """These too, by id or name."""


@dataclass(frozen=True)
class Item:
    """Something that is removed, or that stays though no kept run needs it."""

    what: What
    path: str
    """Relative to the store."""
    bytes: int
    why: str


@dataclass(frozen=True)
class Collection:
    """What a collection removes and what it leaves."""

    kept_runs: tuple[str, ...]
    dropped_runs: tuple[str, ...]
    remove: tuple[Item, ...]
    left: tuple[Item, ...]
    """What no kept run needs, and that stays all the same."""

    @property
    def bytes(self) -> int:
        """That removing frees."""
        return sum(item.bytes for item in self.remove)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"bytes": self.bytes, **asdict(self)}


@dataclass
class _Sizes:
    """Bytes of trees; a file that is linked twice counts once."""

    seen: set[tuple[int, int]] = field(default_factory=set)

    def of(self, path: Path) -> int:
        total = 0
        for stat in _stats(path):
            if (stat.st_dev, stat.st_ino) not in self.seen:
                self.seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_size
        return total


def find_garbage(store: Store, policy: Policy, now: float | None = None) -> Collection:
    """Work out what a collection would remove; removes nothing.

    Args:
        store: where to look.
        policy: which runs are kept.
        now: seconds since the epoch, for the age of runs and files; the present by default.

    Raises:
        StoreError: a record of a run cannot be read, so that nobody knows what it needs; or a run that was asked for
            is not there.
    """
    store.need_files("`lumina gc`")
    now = time.time() if now is None else now
    cutoff = None if policy.older_than_days is None else now - policy.older_than_days * _DAY_S
    records = {run: RunRecord.load(store.objects, run) for run in run_ids(store.objects)}
    kept = _kept_runs(store, records, policy, cutoff)
    named: dict[Key, list[str]] = {}
    for run, record in records.items():
        for key in _keys(record):
            named.setdefault(key, []).append(run)
    needed = {key for run in kept for key in _keys(records[run])}
    remove: list[Item] = []
    left: list[Item] = []
    sizes = _Sizes()
    for key, directory in _directories(store):
        looked = _Directory(directory, store.root, sizes, remove, left)
        looked.judge(key in needed, named.get(key, []), kept, records, cutoff)
    for one in leftovers(store.root, records, cutoff, now):
        item = Item(one.what, one.path.relative_to(store.root).as_posix(), one.bytes, one.why)
        (remove if one.goes else left).append(item)
    dropped = tuple(run for run in sorted(records) if run not in kept)
    return Collection(tuple(sorted(kept)), dropped, tuple(remove), tuple(left))


def collect(store: Store, policy: Policy) -> Collection:
    """Remove what `find_garbage` finds; returns what was removed.

    Raises:
        StoreError: see `find_garbage`; or a run is at work on the store, or something cannot be removed.
    """
    with alone(store.root):
        found = find_garbage(store, policy)
        held = [item for item in found.remove if not _remove(store.root / item.path, item.what)]
    busy = tuple(Item(item.what, item.path, item.bytes, "somebody works on it") for item in held)
    removed = tuple(item for item in found.remove if item not in held)
    return Collection(found.kept_runs, found.dropped_runs, removed, (*found.left, *busy))


def _keys(record: RunRecord) -> Iterator[Key]:
    for stage, entry in record.stages.items():
        if entry.fingerprint is not None:
            yield stage, directory_name(entry.fingerprint)


def _kept_runs(store: Store, records: Mapping[str, RunRecord], policy: Policy, cutoff: float | None) -> set[str]:
    kept = {store.run_id(run) for run in (*policy.asked, *run_names(store.objects))}
    by_name: dict[str, list[str]] = {}
    for run in sorted(records, key=lambda run: (records[run].began, run), reverse=True):
        by_name.setdefault(records[run].name, []).append(run)
    for runs in by_name.values():
        whole = [run for run in runs if records[run].ok and records[run].until is None]
        kept |= {runs[0], *whole[:1]}
        if cutoff is None:
            kept |= set(runs[: policy.keep_runs])
        else:
            kept |= {run for run in runs if records[run].began >= cutoff}
    return kept


def _directories(store: Store) -> Iterator[tuple[Key, Path]]:
    for stage in sorted((store.root / "stages").glob("*")):
        for directory in sorted(path for path in stage.glob("*") if path.is_dir()):
            yield (stage.name, directory.name), directory


def _manifest(directory: Path) -> Manifest | Literal["none", "damaged"]:
    try:
        return Manifest.from_sealed(read_text(directory / "MANIFEST.json"))
    except FileNotFoundError:
        return "none"
    except (OSError, ValueError):
        return "damaged"


@dataclass
class _Directory:
    """One fingerprint's directory while it is judged."""

    path: Path
    root: Path
    sizes: _Sizes
    remove: list[Item]
    left: list[Item]

    def judge(
        self,
        needed: bool,
        named_by: list[str],
        kept: set[str],
        records: Mapping[str, RunRecord],
        cutoff: float | None,
    ) -> None:
        """Put what is in the directory, and not needed, on one of the two lists."""
        holder = read_holder(LocalObjects(self.path))
        manifest = _manifest(self.path)
        if holder is not None and holder.is_alive():
            if not needed:
                self._leave("output", self.path, f"{holder} works on it")
        elif manifest == "damaged" and (needed or not named_by):
            self._leave("output", self.path, "its record is damaged, so nobody knows what it is")
        elif manifest == "none":
            self._abandoned(keep=None)
            self._unfinished(needed, cutoff)
        elif needed and isinstance(manifest, Manifest):
            self._abandoned(keep=manifest.attempt)
        elif named_by:
            self._drop("output", self.path, f"of {_list(named_by)}")
        elif isinstance(manifest, Manifest):
            self._unnamed(manifest, kept, records, cutoff)

    def _unnamed(
        self, manifest: Manifest, kept: set[str], records: Mapping[str, RunRecord], cutoff: float | None
    ) -> None:
        """A finished output that no run's record names: the run was killed, or stopped as the stage ended."""
        if manifest.run in records and manifest.run not in kept:
            self._drop("output", self.path, f"of {manifest.run}")
        elif manifest.run not in records and self._is_older(cutoff):
            self._drop("output", self.path, "of a run that was killed long ago")
        else:
            self._abandoned(keep=manifest.attempt)
            killed = "of a run that was killed: the same command goes on from here"
            self._leave("output", self.path, f"of {manifest.run}, which is kept" if manifest.run in kept else killed)

    def _is_older(self, cutoff: float | None) -> bool:
        return cutoff is not None and (self.path / "MANIFEST.json").stat().st_mtime < cutoff

    def _abandoned(self, keep: str | None) -> None:
        for attempt in sorted(self.path.glob("a-*")):
            if attempt.name != keep:
                self._drop("attempt", attempt, "no record names it")

    def _unfinished(self, needed: bool, cutoff: float | None) -> None:
        work = self.path / "work"
        if not work.is_dir():
            return
        newest = max((stat.st_mtime for stat in _stats(work)), default=0.0)
        if not needed and cutoff is not None and newest < cutoff:
            self._drop("unfinished", work, "nobody went on with it")
        elif not needed:
            self._leave("unfinished", work, "a run can go on with it")

    def _drop(self, what: What, path: Path, why: str) -> None:
        self.remove.append(Item(what, path.relative_to(self.root).as_posix(), self.sizes.of(path), why))

    def _leave(self, what: What, path: Path, why: str) -> None:
        self.left.append(Item(what, path.relative_to(self.root).as_posix(), self.sizes.of(path), why))


def _list(runs: Iterable[str]) -> str:
    names = sorted(runs)
    return names[-1] if len(names) == 1 else f"{names[-1]} and {len(names) - 1} more"


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of all files below a directory; those that somebody removes in the meantime are left out."""
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield os.stat(os.path.join(directory, name), follow_symlinks=False)


def _remove(path: Path, what: What) -> bool:
    """Remove one item, its manifest first; False if somebody works on it.

    Raises:
        StoreError: it cannot be removed. Without its manifest it is never read.
    """
    directory = path if what == "output" else path.parent
    try:
        if what in ("partial", "status"):
            path.unlink(missing_ok=True)
            return True
        lease = try_acquire(LocalObjects(directory))
        if isinstance(lease, Holder):
            return False
        try:
            if what == "output":
                (path / "MANIFEST.json").unlink(missing_ok=True)
                # Nothing that the manifest names may go before the manifest has gone for good.
                sync_directory(path)
            shutil.rmtree(path)
        finally:
            lease.release()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be removed: {error.strerror or error}; what is left of it is never read: run it again"
        ) from error
    return True
