"""The store: content-addressed outputs of stages, in a directory; `pipelines.storage.remote` has one in a bucket.

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
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.files import sha256_file
from pipelines.errors import LeaseLostError, StoreError, disk_problem
from pipelines.storage.durable import link_new, replace_file, sync_directory, sync_tree, write_synced
from pipelines.storage.lease import HeldLease, Holder, Lease, read_holder, try_acquire
from pipelines.storage.manifest import Manifest, OutputFile
from pipelines.storage.seal import seal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """The right to compute one fingerprint, and where to write."""

    lease: HeldLease
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

    @property
    def uri(self) -> str:
        """What `--store` takes."""
        return str(self.root)

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
        return self.root / "stages" / stage / fingerprint[:20]

    def output(self, manifest: Manifest) -> Path:
        """The attempt directory that a manifest names; of an accepted output, where it was computed."""
        computed = manifest.aliased_from or manifest.fingerprint
        return self.directory(manifest.stage, computed.removeprefix("sha256:")) / manifest.attempt

    def fetch(self, manifest: Manifest, wanted: Callable[[str], bool] | None = None) -> Path:
        """The output with its files on this machine, or with those whose paths in there are `wanted`.

        In a store of files they are always there.
        """
        return self.output(manifest)

    def fetch_run(self, record: Mapping[str, Any], stages: Iterable[str] | None = None) -> None:
        """Have outputs of a recorded run on this machine, those of `stages` (without what follows `@`), or all."""

    def lookup(self, stage: str, fingerprint: str, heal: bool = False) -> Manifest | None:
        """The manifest of a finished stage whose files are all there with the recorded sizes.

        Args:
            stage: full stage name.
            fingerprint: 64 hex digits.
            heal: move a manifest aside whose output is damaged, so that the stage can be computed again. Only for the
                holder of the lease.
        """
        directory = self.directory(stage, fingerprint)
        path = directory / "MANIFEST.json"
        try:
            manifest = Manifest.from_json(path.read_text())
            problem = self._problem(manifest, fingerprint)
        except FileNotFoundError:
            return None
        except ValueError as error:
            manifest, problem = None, str(error)
        if problem is None:
            return manifest
        if heal:
            aside = self._move_record_aside(stage, fingerprint)
            log.warning("%s: output is damaged (%s): computing it again; the old record is %s", stage, problem, aside)
        return None

    def _problem(self, manifest: Manifest, fingerprint: str) -> str | None:
        if manifest.fingerprint != f"sha256:{fingerprint}":
            return f"the record is of fingerprint {manifest.fingerprint}"
        out = self.output(manifest)
        for file in manifest.files:
            path = os.path.join(out, file.path)
            try:
                size = os.stat(path).st_size
            except OSError:
                return f"{path} is missing"
            if size != file.bytes:
                return f"{path} has {size} bytes, {file.bytes} expected"
        return None

    def manifests(self, stage: str) -> list[Manifest]:
        """All readable manifests of a stage, the newest first; their files are not checked."""
        found = []
        for path in (self.root / "stages" / stage).glob("*/MANIFEST.json"):
            try:
                found.append((path.stat().st_mtime_ns, Manifest.from_json(path.read_text())))
            except (OSError, ValueError) as error:
                log.debug("%s: skipped: %s", path, error)
        return [manifest for _, manifest in sorted(found, key=lambda item: item[0], reverse=True)]

    def has_work(self, stage: str, fingerprint: str) -> bool:
        """Whether an unfinished attempt left something to continue from."""
        work = self.directory(stage, fingerprint) / "work"
        return work.is_dir() and any(work.iterdir())

    def holder(self, stage: str, fingerprint: str) -> Holder | None:
        """The live process that works on a fingerprint, if any."""
        holder = read_holder(self.directory(stage, fingerprint))
        return holder if holder is not None and holder.is_alive() else None

    def acquire(self, stage: str, fingerprint: str) -> Attempt | Holder:
        """Take the lease of a fingerprint and clear what dead attempts left; returns a live holder instead if any.

        Whoever gets an `Attempt` must look the manifest up again: another runner may have finished in between.
        """
        directory = self.directory(stage, fingerprint)
        lease: Lease | Holder | None = None
        try:
            lease = try_acquire(directory)
            if isinstance(lease, Holder):
                return lease
            for leftover in _leftovers(directory, self.lookup(stage, fingerprint, heal=True)):
                _remove(leftover)
            resumed = self.has_work(stage, fingerprint)
            if not resumed:
                (directory / "curve.jsonl").unlink(missing_ok=True)
            attempt = Attempt(lease, directory, directory / f"a-{uuid.uuid4().hex[:8]}", directory / "work", resumed)
            attempt.out.mkdir()
            attempt.work.mkdir(exist_ok=True)
        except BaseException as error:
            if isinstance(lease, Lease):
                lease.release()
            if isinstance(error, OSError):
                raise StoreError(f"stage {stage}: {disk_problem(error, directory)}") from error
            raise
        return attempt

    def reopen(self, stage: str, fingerprint: str, without: Iterable[str]) -> None:
        """Take back the finished rows of a stage but those with the ids `without`: the next run computes these anew.

        Raises:
            StoreError: the stage is not finished, or somebody works on it.
        """
        from jobs.kept import keep

        attempt = self._take(stage, fingerprint)
        manifest = self.lookup(stage, fingerprint)
        try:
            if manifest is None:
                raise StoreError(f"stage {stage}: there is no finished output of {fingerprint[:20]}")
            keep(self.fetch(manifest) / "data", attempt.work, without)
            self._remove_record(stage, fingerprint)
        except OSError as error:
            raise StoreError(f"stage {stage}: {disk_problem(error, attempt.directory)}") from error
        finally:
            self.abandon(attempt)

    def set_aside(self, stage: str, fingerprint: str) -> None:
        """Rename the record of a stage, so that the next run computes it again; nothing happens if there is none.

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

    def _remove_record(self, stage: str, fingerprint: str) -> None:
        (self.directory(stage, fingerprint) / "MANIFEST.json").unlink(missing_ok=True)

    def _move_record_aside(self, stage: str, fingerprint: str) -> Path:
        """Take a manifest out of the way; returns where it is now."""
        record = self.directory(stage, fingerprint) / "MANIFEST.json"
        aside = record.with_name(f"MANIFEST.broken-{time.time_ns()}.json")
        with contextlib.suppress(FileNotFoundError):
            record.rename(aside)
        return aside

    def _take(self, stage: str, fingerprint: str) -> Attempt:
        attempt = self.acquire(stage, fingerprint)
        if isinstance(attempt, Holder):
            raise StoreError(f"stage {stage}: {attempt} works on it; wait until it is done")
        return attempt

    def sweep(self, manifest: Manifest) -> None:
        """Remove what a runner that died right after its commit left beside a finished output."""
        directory = self.output(manifest).parent

        def left() -> list[Path]:
            return [*_leftovers(directory, manifest), *directory.glob("work")]

        if not left() and not (directory / "LEASE.json").exists():
            return
        try:
            lease = try_acquire(directory)
            if isinstance(lease, Lease):
                for leftover in left():
                    _remove(leftover)
                lease.release()
        except OSError as error:
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
            StoreError: the disk is full or not writable.
        """
        path = attempt.directory / "MANIFEST.json"
        temporary = attempt.directory / f"MANIFEST.{attempt.out.name}.tmp"
        try:
            sync_tree(attempt.out)
            write_synced(temporary, manifest.to_json())
            while not link_new(temporary, path):
                # A record may outlive its output, when whoever took this lease over cleared that away.
                if self.lookup(manifest.stage, manifest.fingerprint.removeprefix("sha256:"), heal=True) is not None:
                    shutil.rmtree(attempt.out, ignore_errors=True)
                    break
            temporary.unlink()
            sync_directory(attempt.directory)
        except FileNotFoundError as error:
            raise LeaseLostError(f"stage {manifest.stage}: the attempt was cleared away by another runner") from error
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StoreError(f"stage {manifest.stage}: {disk_problem(error, temporary)}") from error
        shutil.rmtree(attempt.work, ignore_errors=True)
        attempt.lease.release()
        winner = self.lookup(manifest.stage, manifest.fingerprint.removeprefix("sha256:"))
        if winner is None:
            raise StoreError(f"stage {manifest.stage}: the record in {attempt.directory} cannot be read back")
        return winner

    def put_run(self, run_id: str, name: str, record: Mapping[str, Any]) -> None:
        """Write `runs/<run id>.json` and point `latest/<name>` to it.

        Raises:
            StoreError: the disk is full or not writable; what was there before is as it was.
        """
        for path, text in (
            (self.root / "runs" / f"{run_id}.json", seal(json.dumps(record, indent=1))),
            (self.root / "latest" / name, run_id),
        ):
            try:
                replace_file(path, text.encode(), sync=True)
            except OSError as error:
                raise StoreError(f"run {run_id}: {disk_problem(error, path)}") from error

    def get_run(self, run: str | None) -> dict[str, Any]:
        """The record of a run, by id or by name; None means the newest.

        Raises:
            StoreError: no such run, or its record is damaged.
        """
        path = self.run_path(run)
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}): restore it, or run the pipeline again") from error
        if not isinstance(record, dict):
            raise StoreError(f"{path} is no record of a run: restore it, or run the pipeline again")
        record.pop("checksum", None)
        return record

    def run_path(self, run: str | None) -> Path:
        """Where the record of a run lies, by id or by name; None means the newest.

        Raises:
            StoreError: no such run.
        """
        if run is None:
            pointers = sorted((self.root / "latest").glob("*"), key=lambda path: path.stat().st_mtime_ns)
            pointers = [path for path in pointers if not path.name.startswith(".")]
            if not pointers:
                raise StoreError(f"store {self.root} holds no run yet; start one with `lumina run CONFIG`")
            run = pointers[-1].name
        pointer = self.root / "latest" / run
        run_id = pointer.read_text(errors="replace") if pointer.is_file() else run
        path = self.root / "runs" / f"{run_id}.json"
        if not path.is_file() and run_id != run:
            raise StoreError(
                f"{pointer} names the run {run_id!r}, whose record {path} is not there; give a run by its id"
            )
        if not path.is_file():
            known = sorted(pointer.name for pointer in (self.root / "latest").glob("[!.]*"))
            raise StoreError(f"store {self.root} holds no run {run!r}; names: {', '.join(known) or 'none'}")
        return path


def list_files(out: Path) -> tuple[OutputFile, ...]:
    """All files under an attempt directory with size and SHA-256, sorted by path."""
    paths = (path for path in sorted(out.rglob("*")) if path.is_file())
    return tuple(OutputFile(path.relative_to(out).as_posix(), path.stat().st_size, sha256_file(path)) for path in paths)


def _leftovers(directory: Path, kept: Manifest | None) -> list[Path]:
    """What nobody needs, to the holder of the lease: attempts that the manifest does not name, and partial files."""
    orphans = [path for path in directory.glob("a-*") if kept is None or path.name != kept.attempt]
    return [*orphans, *directory.glob("*.tmp")]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
