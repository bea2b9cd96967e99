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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pipelines.engine.store.atomic_io import sync_directory
from pipelines.engine.store.attempt import directory_name
from pipelines.engine.store.lease import Holder, read_holder, try_acquire
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.objects import LocalObjects
from pipelines.engine.store.orphans import Orphan, What, orphaned_files
from pipelines.engine.store.run_record import RunRecord, run_ids, run_names
from pipelines.engine.store.store import Store
from pipelines.engine.store.store_lock import alone
from pipelines.engine.store.sweep_record import SweepRecord, sweep_names
from pipelines.errors import StoreError

_DAY_S = 86400.0
Key = tuple[str, str]
"""Stage and name of the fingerprint's directory."""


@dataclass(frozen=True)
class Policy:
    """Which runs are kept, besides the newest of every name, the newest whole one, those `latest/` names, and those of
    sweeps that have a record."""

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
    runs = _Runs(records, frozenset(_kept_runs(store, records, policy, cutoff)), cutoff)
    found = [one for key in _directories(store) for one in runs.judge(store, key)]
    found += orphaned_files(store.root, records, cutoff, now)
    sizes = _Sizes()
    remove: list[Item] = []
    left: list[Item] = []
    for one in found:
        item = Item(one.what, one.path.relative_to(store.root).as_posix(), sizes.of(one.path), one.why)
        (remove if one.goes else left).append(item)
    dropped = tuple(run for run in sorted(records) if run not in runs.kept)
    return Collection(tuple(sorted(runs.kept)), dropped, tuple(remove), tuple(left))


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


def _kept_runs(store: Store, records: Mapping[str, RunRecord], policy: Policy, cutoff: float | None) -> set[str]:
    kept = {store.run_id(run) for run in (*policy.asked, *run_names(store.objects))}
    sweeps = (SweepRecord.load(store.objects, name) for name in sweep_names(store.objects))
    kept |= {one.run for sweep in sweeps for one in sweep.runs if one.run is not None and one.run in records}
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


def _directories(store: Store) -> Iterator[Key]:
    for stage in store.objects.folders("stages"):
        for name in store.objects.folders(f"stages/{stage}"):
            yield stage, name


@dataclass(frozen=True)
class _Runs:
    """The runs of a store, by which the directory of each fingerprint is judged."""

    records: Mapping[str, RunRecord]
    kept: frozenset[str]
    cutoff: float | None

    @cached_property
    def naming(self) -> Mapping[Key, list[str]]:
        """The runs that name a directory."""
        found: defaultdict[Key, list[str]] = defaultdict(list)
        for run, record in self.records.items():
            for stage, entry in record.stages.items():
                if entry.fingerprint is not None:
                    found[stage, directory_name(entry.fingerprint)].append(run)
        return found

    def judge(self, store: Store, key: Key) -> Iterator[Orphan]:
        """What is in a directory, and not needed."""
        path, named_by = store.directory(*key), self.naming.get(key, [])
        needed = not self.kept.isdisjoint(named_by)
        holder = read_holder(LocalObjects(path))
        manifest = _manifest(store, key)
        if holder is not None and holder.is_alive():
            if not needed:
                yield Orphan("output", path, False, f"{holder} works on it")
        elif manifest == "damaged" and (needed or not named_by):
            yield Orphan("output", path, False, "its record is damaged, so nobody knows what it is")
        elif manifest == "none":
            yield from _attempts(path, but=None)
            yield from self._unfinished(path / "work", needed)
        elif needed and isinstance(manifest, Manifest):
            yield from _attempts(path, but=manifest.attempt)
        elif named_by:
            yield Orphan("output", path, True, f"of {_list(named_by)}")
        elif isinstance(manifest, Manifest):
            yield from self._unnamed(path, manifest)

    def _unnamed(self, path: Path, manifest: Manifest) -> Iterator[Orphan]:
        """A finished output that no run's record names: the run was killed, or stopped as the stage ended."""
        if manifest.run in self.kept:
            goes, why = False, f"of {manifest.run}, which is kept"
        elif manifest.run in self.records:
            goes, why = True, f"of {manifest.run}"
        elif self.cutoff is not None and (path / "MANIFEST.json").stat().st_mtime < self.cutoff:
            goes, why = True, "of a run that was killed long ago"
        else:
            goes, why = False, "of a run that was killed: the same command goes on from here"
        if not goes:
            yield from _attempts(path, but=manifest.attempt)
        yield Orphan("output", path, goes, why)

    def _unfinished(self, work: Path, needed: bool) -> Iterator[Orphan]:
        if needed or not work.is_dir():
            return
        newest = max((stat.st_mtime for stat in _stats(work)), default=0.0)
        old = self.cutoff is not None and newest < self.cutoff
        yield Orphan("unfinished", work, old, "nobody went on with it" if old else "a run can go on with it")


def _manifest(store: Store, key: Key) -> Manifest | Literal["none", "damaged"]:
    try:
        text = store.record_text(*key)
        return "none" if text is None else Manifest.from_sealed(text)
    except (StoreError, ValueError):
        return "damaged"


def _attempts(path: Path, but: str | None) -> Iterator[Orphan]:
    for attempt in sorted(path.glob("a-*")):
        if attempt.name != but:
            yield Orphan("attempt", attempt, True, "no record names it")


def _list(runs: Iterable[str]) -> str:
    names = sorted(runs)
    return names[-1] if len(names) == 1 else f"{names[-1]} and {len(names) - 1} more"


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of all below a directory; those that somebody removes in the meantime are left out."""
    if not path.is_dir():
        with contextlib.suppress(FileNotFoundError):
            yield path.lstat()
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
