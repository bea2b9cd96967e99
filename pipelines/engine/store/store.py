"""The store: content-addressed outputs of stages, in a directory or a bucket.

    <store>/stages/<stage>/<fingerprint[:20]>/{LEASE.json, a-<id>/..., work/, *.jsonl, MANIFEST.json}
    <store>/runs/<run id>.json      which fingerprints a run used, and what they were made from
    <store>/live/<run id>.json      how a run stands that is at work
    <store>/sweeps/<name>.json      how a sweep stands; beside it its page, and in <name>/ what its runs printed
    <store>/latest/<run name>       the id of the newest run of that name
    <store>/cache/                  digests of files outside, to compute them once
    <store>/STORE.lock              held in common by runs, and alone by `lumina gc`

Records are read and written as objects where all machines see them (`pipelines.engine.store.objects`), files of
outputs in a working copy on this machine (`pipelines.engine.store.working_copy`).

An attempt writes into a directory of its own that is never renamed. Its manifest is put last, create-if-absent; the
loser of a race takes the winner's output.

Relied upon, on local disks and on NFSv4: `link` fails where the name is taken, `rename` within a directory replaces a
file in one step, a file that was closed is whole to whoever opens it later, and `flock` keeps processes apart and ends
with them. The last one saves double work only. Nothing is renamed from one directory to another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.files import replacing
from pipelines.engine.store import lease as leases
from pipelines.engine.store.attempt import Attempt, directory_name, orphans, remove
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.lease import Holder, Lease, read_holder, try_acquire
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.objects import LocalObjects, Objects
from pipelines.engine.store.run_record import RunRecord, find_run, run_key
from pipelines.engine.store.working_copy import WorkingCopy
from pipelines.errors import LeaseLostError, StoreError, disk_problem

if TYPE_CHECKING:
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)

Wanted = Callable[[str], bool]
"""Whether a file of an output is wanted, by its path relative to the output."""


class Store:
    """Outputs of stages, and the runs that used them; see `pipelines.engine.store.open_store`.

    Args:
        root: the directory; made by `prepare`, so that looking needs no permission to write.
        bucket: where all machines look, if not there; `root` is a working copy then.
    """

    def __init__(self, root: str | Path, bucket: Bucket | None = None) -> None:
        if "://" in str(root) and not str(root).startswith("file://"):
            raise StoreError(f"store {root}: this kind of URI is not supported; give a directory, s3://... or gs://...")
        self.root = Path(str(root).removeprefix("file://")).expanduser().resolve()
        self.local = LocalObjects(self.root)
        """What lies on this machine."""
        self.objects: Objects = bucket or self.local
        """What all machines see."""
        self.copy = WorkingCopy(self.root, bucket)
        """Brings files of outputs from there to here, and back."""
        self.in_bucket = bucket is not None
        """Whether the outputs are no files of this machine."""
        self.uri = str(self.root) if bucket is None else bucket.given
        """What `--store` takes."""

    def key(self, path: Path) -> str:
        """The key of a path below `root`."""
        return path.relative_to(self.root).as_posix()

    def name(self, path: Path) -> str:
        """What a path below `root` is called where the store is."""
        return self.objects.name(self.key(path))

    def need_files(self, what: str) -> None:
        """Raises StoreError where `what` cannot work, since the outputs are not files of this machine."""
        if self.in_bucket:
            raise StoreError(
                f"{what} needs a store on a file system, and {self.uri.partition('?')[0]} is in a bucket: copy it to a "
                "disk with `aws s3 sync` or `gcloud storage rsync`, and give the copy with --store"
            )

    def prepare(self, min_free_gb: float = 0.0) -> None:
        """Make the directory and check that it can be used, and the bucket.

        Raises:
            StoreError: it cannot be written, or has less than `min_free_gb` GB (1e9 bytes) free; see `Bucket.check`.
        """
        self.local.check()
        free = shutil.disk_usage(self.root).free / 1e9
        if free < min_free_gb:
            raise StoreError(
                f"store {self.root} has {free:.1f} GB free, {min_free_gb:g} GB are needed; free some space or choose "
                "another with --store"
            )
        if self.in_bucket:
            self.objects.check()

    def directory(self, stage: str, fingerprint: str) -> Path:
        """Where a fingerprint's attempts live."""
        return self.root / "stages" / stage / directory_name(fingerprint)

    def output(self, manifest: Manifest) -> Path:
        """The attempt directory that a manifest names."""
        return self.directory(manifest.stage, manifest.fingerprint) / manifest.attempt

    def fetch(self, manifest: Manifest, wanted: Wanted | None = None) -> Path:
        """The directory of an output, with its files on this machine, or those that are `wanted`.

        Raises:
            GoneError: a bucket has lost one of them.
            StoreError: one is not what was recorded, or the disk is full.
        """
        out = self.output(manifest)
        self.copy.download(out, [file for file in manifest.files if wanted is None or wanted(file.path)])
        return out

    def sizes(self, out: Path) -> dict[str, int | None]:
        """Bytes of all that the store has below the directory of an attempt, by its relative path; None for a link."""
        if out.is_symlink():
            return {}
        prefix = f"{self.key(out)}/"
        return {entry.key.removeprefix(prefix): entry.bytes for entry in self.objects.entries(prefix.rstrip("/"))}

    def dataset(self, manifest: Manifest) -> ds.Dataset:
        """The Parquet files in `data/` of an output; see `WorkingCopy.dataset`."""
        return self.copy.dataset(self.output(manifest), manifest.files)

    def record_text(self, stage: str, fingerprint: str) -> str | None:
        """Content of the MANIFEST.json of a fingerprint (64 hex digits), as it is; None if there is none.

        Raises:
            ValueError: what is there is no text, or no file but a link to one.
        """
        record = self.objects.read(self._record(stage, fingerprint))
        return None if record is None else record.text

    def lookup(self, stage: str, fingerprint: str, repair: bool = False) -> Manifest | None:
        """The manifest of a finished stage, as it was sealed, whose files are all there with the recorded sizes.

        Args:
            stage: full stage name.
            fingerprint: 64 hex digits.
            repair: move a manifest aside whose output is damaged, so that the stage can be computed again. Only for the
                holder of the lease.
        """
        manifest, problem = self.look(stage, fingerprint)
        if problem is None:
            return manifest
        if repair:
            aside = self._move_record_aside(stage, fingerprint)
            log.warning("%s: output is damaged (%s): computing it again; the old record is %s", stage, problem, aside)
        return None

    def look(self, stage: str, fingerprint: str) -> tuple[Manifest | None, str | None]:
        """What `lookup` finds, and why it finds nothing although a record is there."""
        try:
            text = self.record_text(stage, fingerprint)
            if text is None:
                return None, None
            manifest = Manifest.from_sealed(text)
            problem = manifest.problem(stage, fingerprint, self.sizes(self.output(manifest)))
        except ValueError as error:
            return None, f"{self.name(self.directory(stage, fingerprint) / 'MANIFEST.json')}: {error}"
        return (manifest, None) if problem is None else (None, f"{self.name(self.output(manifest))}: {problem}")

    def manifests(self, stage: str) -> list[Manifest]:
        """All readable manifests of a stage as they were sealed, the newest first.

        Their files are not checked, nor whether a bucket has another one by now: whoever acts on one looks it up.
        """
        found = []
        for name in self.objects.folders(f"stages/{stage}"):
            key = f"stages/{stage}/{name}/MANIFEST.json"
            if self.in_bucket and not (self.root / key).exists():
                self._copy_record(key)
            try:
                if (record := self.local.read(key)) is not None:
                    found.append((record.modified, Manifest.from_sealed(record.text)))
            except (StoreError, ValueError) as error:
                log.debug("%s: skipped: %s", key, error)
        return [manifest for _, manifest in sorted(found, key=lambda item: item[0], reverse=True)]

    def _copy_record(self, key: str) -> None:
        """Have a record here as the bucket has it, which does not become the newest because somebody here looks."""
        if (record := self.objects.read(key)) is None:
            return
        try:
            with replacing(self.root / key) as partial:
                partial.write_text(record.text)
                os.utime(partial, (record.modified, record.modified))
        except OSError as error:
            raise StoreError(f"store {self.root}: {disk_problem(error, self.root / key)}") from error

    def has_work(self, stage: str, fingerprint: str) -> bool:
        """Whether an unfinished attempt left something to continue from."""
        work = self.directory(stage, fingerprint) / "work"
        return work.is_dir() and any(work.iterdir())

    def holder(self, stage: str, fingerprint: str) -> Holder | None:
        """The process that works on a fingerprint and may be alive, if any."""
        holder = read_holder(self.objects, self._record(stage, fingerprint, leases.RECORD))
        return holder if holder is not None and holder.is_alive() else None

    def _record(self, stage: str, fingerprint: str, name: str = "MANIFEST.json") -> str:
        return self.key(self.directory(stage, fingerprint) / name)

    def acquire(self, stage: str, fingerprint: str) -> Attempt | Holder:
        """Take the lease of a fingerprint and clear what dead attempts left; returns a live holder instead if any.

        Whoever gets an `Attempt` must look the manifest up again: another runner may have finished in between.
        """
        directory = self.directory(stage, fingerprint)
        lease = try_acquire(self.objects, self._record(stage, fingerprint, leases.RECORD))
        if isinstance(lease, Holder):
            return lease
        try:
            self._remove_orphans(directory, self.lookup(stage, fingerprint, repair=True))
            if (directory / "work").is_symlink():
                (directory / "work").unlink()
            resumed = self.has_work(stage, fingerprint)
            if not resumed:
                (directory / "curve.jsonl").unlink(missing_ok=True)
            attempt = Attempt(lease, directory, directory / f"a-{uuid.uuid4().hex[:8]}", directory / "work", resumed)
            attempt.out.mkdir(parents=True)
            attempt.work.mkdir(exist_ok=True)
        except BaseException as error:
            lease.release()
            if isinstance(error, OSError):
                raise StoreError(f"stage {stage}: {disk_problem(error, directory)}") from error
            raise
        return attempt

    def _remove_orphans(self, directory: Path, kept: Manifest | None) -> None:
        """Remove what nobody needs, here and in the bucket; only the holder of the lease may."""
        for orphan in orphans(directory, kept):
            remove(orphan)
        for name in self.objects.folders(self.key(directory)):
            if name.startswith("a-") and (kept is None or name != kept.attempt):
                self.copy.remove(directory / name)

    def reopen(self, stage: str, fingerprint: str, keep: Callable[[Path, Path], None]) -> None:
        """Make a finished stage unfinished again: the next run goes on from what was kept.

        Args:
            stage: its name.
            fingerprint: 64 hex digits.
            keep: keep(output, work) puts what is to be kept of the output directory into the stage's scratch directory.

        Raises:
            StoreError: the stage is not finished, or somebody works on it.
        """
        with self._taken(stage, fingerprint) as attempt:
            manifest = self.lookup(stage, fingerprint)
            if manifest is None:
                raise StoreError(f"stage {stage}: there is no finished output of {directory_name(fingerprint)}")
            keep(self.fetch(manifest), attempt.work)
            for objects in (self.objects, self.local):
                objects.remove(self._record(stage, fingerprint))

    def repair(self, stage: str, fingerprint: str) -> None:
        """Rename the record of a damaged stage, so that the next run computes it again; or do nothing if there is none.

        Raises:
            StoreError: somebody works on the stage, or the store cannot be written.
        """
        with self._taken(stage, fingerprint):
            self._move_record_aside(stage, fingerprint)

    def _move_record_aside(self, stage: str, fingerprint: str) -> str:
        """Take a manifest out of the way; returns where it is now."""
        aside = self._record(stage, fingerprint, f"MANIFEST.broken-{time.time_ns()}.json")
        for objects in (self.objects, self.local):
            objects.rename(self._record(stage, fingerprint), aside)
        return self.objects.name(aside)

    @contextlib.contextmanager
    def _taken(self, stage: str, fingerprint: str) -> Iterator[Attempt]:
        """Hold the lease; waits for as long as a bucket takes to tell the dead of another host from the living."""
        deadline = time.monotonic() + 1.5 * leases.EXPIRY_S  # it counts from the first look
        while isinstance(attempt := self.acquire(stage, fingerprint), Holder):
            if attempt.is_here or not self.in_bucket or time.monotonic() > deadline:
                raise StoreError(f"stage {stage}: {attempt} works on it; wait until it is done")
            time.sleep(leases.EXPIRY_S / 60)
        try:
            yield attempt
        except OSError as error:
            raise StoreError(f"stage {stage}: {disk_problem(error, attempt.directory)}") from error
        finally:
            self.abandon(attempt)

    def sweep(self, manifest: Manifest) -> None:
        """Remove what a runner of this machine that died right after its commit left beside a finished output."""
        directory = self.output(manifest).parent
        key = self.key(directory / leases.RECORD)
        try:
            left = [*orphans(directory, manifest), *directory.glob("work")]
            if not left and read_holder(self.objects, key) is None:
                return
            lease = try_acquire(self.objects, key)
            if isinstance(lease, Lease):
                self._remove_orphans(directory, manifest)
                remove(directory / "work")
                lease.release()
        except (OSError, StoreError) as error:
            log.debug("%s: not swept: %s", directory, error)

    def abandon(self, attempt: Attempt) -> None:
        """Give up an attempt: its output goes, its scratch stays, the lease is free."""
        shutil.rmtree(attempt.out, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty, or not there
            attempt.work.rmdir()
        attempt.lease.release()

    def commit(self, attempt: Attempt, manifest: Manifest) -> Manifest:
        """Put the manifest of a complete attempt, last and create-if-absent, then clean up and release the lease.

        Returns the manifest that counts: the winner's, if another runner was quicker.

        Raises:
            LeaseLostError: another runner cleared this attempt away and has not finished yet.
            StoreError: the disk is full or not writable, or the bucket cannot be reached.
        """
        stage, key = manifest.stage, self._record(manifest.stage, manifest.fingerprint)
        text = manifest.to_json()
        try:
            self.copy.upload(attempt.out, manifest.files)
            while self.objects.create(key, text) is None:
                # A record may outlive its output, when whoever took this lease over cleared that away.
                if self.lookup(stage, manifest.fingerprint, repair=True) is not None:
                    self.copy.remove(attempt.out)
                    break
            else:
                if self.in_bucket:
                    # Now, and not by the bucket's clock, which may tell whole seconds only: history is in their order.
                    self.local.put(key, text)
        except FileNotFoundError as error:
            raise LeaseLostError(f"stage {stage}: the attempt was cleared away by another runner") from error
        except OSError as error:
            raise StoreError(f"stage {stage}: {disk_problem(error, attempt.out)}") from error
        winner = self.lookup(stage, manifest.fingerprint)
        if winner is not None:
            shutil.rmtree(attempt.work, ignore_errors=True)
        attempt.lease.release()
        if winner is None:
            raise StoreError(
                f"stage {stage}: the output in {self.name(attempt.directory)} is not what was put there: another "
                "runner took the stage over, or the store lost it; the same command computes it again"
            )
        return winner

    def put_run(self, record: RunRecord) -> None:
        """Write `runs/<run id>.json` and point `latest/<run name>` to it.

        Raises:
            StoreError: the disk is full or not writable; what was there before is as it was.
        """
        try:
            self.objects.put(run_key(record.run), record.to_json(), sync=True)
            self.objects.put(f"latest/{record.name}", record.run, sync=True)
        except StoreError as error:
            raise StoreError(f"run {record.run}: {error}") from error

    def get_run(self, run: str | None, sealed: bool = True) -> RunRecord:
        """The record of a run, by id or by name; None means the newest.

        Args:
            run: id or name.
            sealed: whether it must be as it was written; only who does not act on it may read what was edited.

        Raises:
            StoreError: no such run, or its record is damaged or was edited.
        """
        return RunRecord.load(self.objects, self.run_id(run), sealed)

    def run_id(self, run: str | None) -> str:
        """The id of a run that has a record, by id or by name; None means the newest.

        Raises:
            StoreError: no such run.
        """
        return find_run(self.objects, run)
