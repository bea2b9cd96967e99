"""The store: content-addressed outputs of stages, in a directory; `pipelines.engine.store.remote` has one in a bucket.

    <store>/stages/<stage>/<fingerprint[:20]>/{LEASE.json, a-<id>/..., work/, *.jsonl, MANIFEST.json}
    <store>/runs/<run id>.json      which fingerprints a run used, and what they were made from
    <store>/latest/<run name>       the id of the newest run of that name
    <store>/cache/                  digests of files outside, to compute them once
    <store>/STORE.lock              held in common by runs, and alone by `lumina gc`

An attempt writes into a directory of its own that is never renamed. Its manifest is put last, create-if-absent; the
loser of a race takes the winner's output.

Relied upon, on local disks and on NFSv4: `link` fails where the name is taken, `rename` within a directory replaces a
file in one step, a file that was closed is whole to whoever opens it later, and `flock` keeps processes apart and ends
with them. The last one saves double work only. Nothing is renamed from one directory to another.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.files import sha256_file
from pipelines.engine.store.atomic_io import sync_tree
from pipelines.engine.store.lease import Holder, Lease, read_holder, try_acquire
from pipelines.engine.store.listing import sizes, sizes_below
from pipelines.engine.store.manifest import Manifest, OutputFile
from pipelines.engine.store.objects import LocalObjects, Objects, Record
from pipelines.engine.store.run_record import RunRecord, find
from pipelines.engine.store.typed import read_text
from pipelines.errors import LeaseLostError, StoreError, disk_problem

if TYPE_CHECKING:
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)

Wanted = Callable[[str], bool]
"""Whether a file of an output is wanted, by its path relative to the output."""


@dataclass(frozen=True)
class Attempt:
    """The right to compute one fingerprint, and where to write."""

    lease: Lease
    directory: Path
    """The fingerprint's directory."""
    out: Path
    """Empty directory of this attempt."""
    work: Path
    """Scratch of the fingerprint, kept from an attempt that died."""
    resumed: bool
    """Whether `work` holds something of an earlier attempt."""


class Store:
    """Outputs of stages under one local directory.

    Args:
        root: the directory; made by `prepare`, so that looking needs no permission to write.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root) and not str(root).startswith("file://"):
            raise StoreError(f"store {root}: this kind of URI is not supported; give a directory, s3://... or gs://...")
        self.root = Path(str(root).removeprefix("file://")).expanduser().resolve()
        self.files = LocalObjects(self.root)
        """What lies on this machine."""
        self.objects: Objects = self.files
        """What all machines see."""

    @property
    def in_bucket(self) -> bool:
        """Whether the outputs are no files of this machine."""
        return self.objects is not self.files

    @property
    def uri(self) -> str:
        """What `--store` takes."""
        return str(self.root)

    def key(self, path: Path) -> str:
        """The key of a path below `root`."""
        return path.relative_to(self.root).as_posix()

    def name(self, path: Path) -> str:
        """What a path below `root` is called where the store is."""
        return self.objects.name(self.key(path))

    def need_files(self, what: str) -> None:
        """Raises StoreError where `what` cannot work, since the outputs are not files of this machine."""

    def prepare(self, min_free_gb: float = 0.0) -> None:
        """Make the directory and check that it can be used.

        Raises:
            StoreError: it cannot be written, or has less than `min_free_gb` GB (1e9 bytes) free.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "cache").mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".write-test-") as file:
                file.write(b"x")
        except OSError as error:
            raise StoreError(
                f"store {self.root} cannot be written ({error.strerror}); choose another with --store"
            ) from error
        free = shutil.disk_usage(self.root).free / 1e9
        if free < min_free_gb:
            raise StoreError(
                f"store {self.root} has {free:.1f} GB free, {min_free_gb:g} GB are needed; free some space or choose "
                "another with --store"
            )

    def directory(self, stage: str, fingerprint: str) -> Path:
        """Where a fingerprint's attempts live."""
        return self.root / "stages" / stage / directory_name(fingerprint)

    def output(self, manifest: Manifest) -> Path:
        """The attempt directory that a manifest names."""
        return self.directory(manifest.stage, manifest.fingerprint) / manifest.attempt

    def has_output(self, manifest: Manifest) -> bool:
        """Whether the output is in the store; single files of it may be lost."""
        return self.output(manifest).is_dir()

    def fetch(self, manifest: Manifest, wanted: Wanted | None = None) -> Path:
        """The output with its files on this machine, or those that are `wanted`; in a folder they always are."""
        return self.output(manifest)

    def sizes(self, out: Path) -> dict[str, int]:
        """Bytes of every file that the store has below the directory of an attempt, by its relative path."""
        return sizes(out)

    @contextlib.contextmanager
    def borrow(self, out: Path, files: Iterable[OutputFile]) -> Iterator[Path]:
        """A directory with these files of the attempt in `out`, as long as somebody looks; lost ones are not in it."""
        yield out

    def share(self, path: Path) -> None:
        """Show other machines a file below `root` that is no output and never changes."""

    def bring(self, path: Path) -> None:
        """Have what was shared on this machine, if the store has it."""

    def dataset(self, manifest: Manifest) -> ds.Dataset:
        """The Parquet files in `data/` of an output."""
        import pyarrow.dataset as ds  # brings pandas along, which a plan does without

        return ds.dataset(self.output(manifest) / "data", format="parquet")

    def fetch_run(self, record: RunRecord, stages: Iterable[str] | None = None, wanted: Wanted | None = None) -> None:
        """Have outputs of a recorded run on this machine, or of each only the files that are `wanted`.

        Args:
            record: of the run.
            stages: whose outputs, without what follows `@`; None means all.
            wanted: see `Wanted`.
        """

    def record_text(self, stage: str, fingerprint: str) -> str | None:
        """Content of the MANIFEST.json of a fingerprint (64 hex digits), as it is; None if there is none.

        Raises:
            ValueError: what is there is no text, or no file but a link to one.
        """
        record = self._read(self._record(stage, fingerprint))
        return None if record is None else record.text

    def _read(self, key: str) -> Record | None:
        return self.objects.read(key)

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
            problem = self._problem(manifest, stage, fingerprint)
        except ValueError as error:
            return None, f"{self.name(self.directory(stage, fingerprint) / 'MANIFEST.json')}: {error}"
        return (manifest, None) if problem is None else (None, problem)

    def _problem(self, manifest: Manifest, stage: str, fingerprint: str) -> str | None:
        if manifest.fingerprint != fingerprint:
            return f"the record is of fingerprint {manifest.fingerprint}"
        if manifest.stage != stage:
            return f"the record is of stage {manifest.stage}"
        out = self.output(manifest)
        size_of = self._size_of(out)
        for file in manifest.files:
            size = size_of(file.path)
            if size is None:
                return f"{self.name(out / file.path)} is missing"
            if size != file.bytes:
                return f"{self.name(out / file.path)} has {size} bytes, {file.bytes} expected"
        return None

    def _size_of(self, out: Path) -> Callable[[str], int | None]:
        """Tells the bytes of a file of the attempt in `out` by its relative path; None if it is not there."""
        return sizes_below(out)

    def manifests(self, stage: str) -> list[Manifest]:
        """All readable manifests of a stage as they were sealed, the newest first; their files are not checked."""
        found = []
        for path in (self.root / "stages" / stage).glob("*/MANIFEST.json"):
            try:
                found.append((path.stat().st_mtime_ns, Manifest.from_sealed(read_text(path))))
            except (OSError, ValueError) as error:
                log.debug("%s: skipped: %s", path, error)
        return [manifest for _, manifest in sorted(found, key=lambda item: item[0], reverse=True)]

    def has_work(self, stage: str, fingerprint: str) -> bool:
        """Whether an unfinished attempt left something to continue from."""
        work = self.directory(stage, fingerprint) / "work"
        return work.is_dir() and any(work.iterdir())

    def holder(self, stage: str, fingerprint: str) -> Holder | None:
        """The process that works on a fingerprint and may be alive, if any."""
        holder = read_holder(self.objects, self._lease(self.directory(stage, fingerprint)))
        return holder if holder is not None and holder.is_alive() else None

    def _lease(self, directory: Path) -> str:
        return self.key(directory / "LEASE.json")

    def _try_acquire(self, directory: Path) -> Lease | Holder:
        """Take the lease that all machines see, then that of the working copy."""
        lease = try_acquire(self.objects, self._lease(directory))
        if isinstance(lease, Holder) or not self.in_bucket:
            return lease
        try:
            copy = try_acquire(self.files, self._lease(directory))
        except BaseException:
            lease.release()
            raise
        if isinstance(copy, Holder):
            lease.release()
            return copy
        lease.copy = copy
        return lease

    def acquire(self, stage: str, fingerprint: str) -> Attempt | Holder:
        """Take the lease of a fingerprint and clear what dead attempts left; returns a live holder instead if any.

        Whoever gets an `Attempt` must look the manifest up again: another runner may have finished in between.
        """
        directory = self.directory(stage, fingerprint)
        lease = self._try_acquire(directory)
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
            attempt.out.mkdir()
            attempt.work.mkdir(exist_ok=True)
        except BaseException as error:
            lease.release()
            if isinstance(error, OSError):
                raise StoreError(f"stage {stage}: {disk_problem(error, directory)}") from error
            raise
        return attempt

    def _remove_orphans(self, directory: Path, kept: Manifest | None) -> None:
        """Remove what nobody needs; only the holder of the lease may."""
        for orphan in _orphans(directory, kept):
            _remove(orphan)

    def reopen(self, stage: str, fingerprint: str, keep: Callable[[Path, Path], None]) -> None:
        """Make a finished stage unfinished again: the next run goes on from what was kept.

        Args:
            stage: its name.
            fingerprint: 64 hex digits.
            keep: keep(output, work) puts what is to be kept of the output directory into the stage's scratch directory.

        Raises:
            StoreError: the stage is not finished, or somebody works on it.
        """
        attempt = self._take(stage, fingerprint)
        manifest = self.lookup(stage, fingerprint)
        try:
            if manifest is None:
                raise StoreError(f"stage {stage}: there is no finished output of {directory_name(fingerprint)}")
            keep(self.fetch(manifest), attempt.work)
            self.objects.remove(self._record(stage, fingerprint))
            self.files.remove(self._record(stage, fingerprint))
        except OSError as error:
            raise StoreError(f"stage {stage}: {disk_problem(error, attempt.directory)}") from error
        finally:
            self.abandon(attempt)

    def repair(self, stage: str, fingerprint: str) -> None:
        """Rename the record of a damaged stage, so that the next run computes it again; or do nothing if there is none.

        Raises:
            StoreError: somebody works on the stage, or the store cannot be written.
        """
        attempt = self._take(stage, fingerprint)
        try:
            self._move_record_aside(stage, fingerprint)
        except OSError as error:
            raise StoreError(f"stage {stage}: {disk_problem(error, attempt.directory)}") from error
        finally:
            self.abandon(attempt)

    def _move_record_aside(self, stage: str, fingerprint: str) -> str:
        """Take a manifest out of the way; returns where it is now."""
        key = self._record(stage, fingerprint)
        aside = key.replace("MANIFEST.json", f"MANIFEST.broken-{time.time_ns()}.json")
        self.objects.rename(key, aside)
        if self.in_bucket:
            self.files.rename(key, aside)
        return self.objects.name(aside)

    def _record(self, stage: str, fingerprint: str) -> str:
        return self.key(self.directory(stage, fingerprint) / "MANIFEST.json")

    def _take(self, stage: str, fingerprint: str) -> Attempt:
        attempt = self.acquire(stage, fingerprint)
        if isinstance(attempt, Holder):
            raise StoreError(f"stage {stage}: {attempt} works on it; wait until it is done")
        return attempt

    def sweep(self, manifest: Manifest) -> None:
        """Remove what a runner of this machine that died right after its commit left beside a finished output."""
        directory = self.output(manifest).parent
        left = [*_orphans(directory, manifest), *directory.glob("work"), *directory.glob("LEASE.json")]
        if not left:
            return
        try:
            lease = self._try_acquire(directory)
            if isinstance(lease, Lease):
                for orphan in [*_orphans(directory, manifest), *directory.glob("work")]:
                    _remove(orphan)
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
            self._publish(attempt, manifest)
            while self.objects.create(key, text) is None:
                # A record may outlive its output, when whoever took this lease over cleared that away.
                if self.lookup(stage, manifest.fingerprint, repair=True) is not None:
                    self._withdraw(attempt, manifest)
                    break
            else:
                if self.in_bucket:
                    # Now, and not by the bucket's clock, which may tell whole seconds only: history is in their order.
                    self.files.put(key, text)
        except FileNotFoundError as error:
            raise LeaseLostError(f"stage {stage}: the attempt was cleared away by another runner") from error
        except OSError as error:
            raise StoreError(f"stage {stage}: {disk_problem(error, attempt.out)}") from error
        shutil.rmtree(attempt.work, ignore_errors=True)
        attempt.lease.release()
        winner = self.lookup(stage, manifest.fingerprint)
        if winner is None:
            raise StoreError(
                f"stage {stage}: the output in {self.name(attempt.directory)} is not what was put there: another "
                "runner took the stage over, or the store lost it; the same command computes it again"
            )
        return winner

    def _publish(self, attempt: Attempt, manifest: Manifest) -> None:
        """Have all files of a complete attempt where its manifest may name them."""
        sync_tree(attempt.out)

    def _withdraw(self, attempt: Attempt, manifest: Manifest) -> None:
        """Remove an attempt that lost."""
        shutil.rmtree(attempt.out, ignore_errors=True)

    def put_run(self, record: RunRecord) -> None:
        """Write `runs/<run id>.json` and point `latest/<run name>` to it.

        Raises:
            StoreError: the disk is full or not writable; what was there before is as it was.
        """
        record.save(self.root)

    def get_run(self, run: str | None, sealed: bool = True) -> RunRecord:
        """The record of a run, by id or by name; None means the newest.

        Args:
            run: id or name.
            sealed: whether it must be as it was written; only who does not act on it may read what was edited.

        Raises:
            StoreError: no such run, or its record is damaged or was edited.
        """
        return RunRecord.load(self.run_path(run), sealed)

    def run_path(self, run: str | None) -> Path:
        """Where the record of a run lies, by id or by name; None means the newest.

        Raises:
            StoreError: no such run.
        """
        return find(self.root, run)


def directory_name(fingerprint: str) -> str:
    """Of the directory in which a fingerprint's attempts live."""
    return fingerprint[:20]


def list_files(out: Path) -> tuple[OutputFile, ...]:
    """All files under an attempt directory with size and SHA-256, sorted by path."""
    paths = (path for path in sorted(out.rglob("*")) if path.is_file())
    return tuple(OutputFile(path.relative_to(out).as_posix(), path.stat().st_size, sha256_file(path)) for path in paths)


def _orphans(directory: Path, kept: Manifest | None) -> list[Path]:
    """What nobody needs, to the holder of the lease: attempts that the manifest does not name, and partial files."""
    orphans = [path for path in directory.glob("a-*") if kept is None or path.name != kept.attempt]
    return [*orphans, *directory.glob("*.tmp")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
