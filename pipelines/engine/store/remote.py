"""A store in a bucket. The bucket is the truth; a working copy on this machine is where stages write and read.

    s3://bucket/prefix/stages/<stage>/<fingerprint[:20]>/{LEASE.json, a-<id>/..., MANIFEST.json}
    s3://bucket/prefix/{runs/<run id>.json, latest/<run name>, live/<run id>.json, patches/<sha256>.patch}

An output is uploaded file by file, and its manifest is put last, create-if-absent. An output of another machine is
fetched when something here reads it. Scratch of unfinished stages, logs and the database of MLflow are the working
copy's alone, so a stage that another machine takes over starts anew there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.files import replacing
from pipelines.engine.store.attempt import Attempt
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.manifest import Manifest, OutputFile
from pipelines.engine.store.objects import Record
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store, Wanted
from pipelines.errors import GoneError, StoreError, disk_problem

if TYPE_CHECKING:
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)

_THREADS = 8
_WHOLE_BYTES = 256 << 10
_FETCHED_BYTES = 64 << 20
"""Tables whose files above `_WHOLE_BYTES` have more than this in all are read where they lie: most of it is in columns
that nobody looks at. Of smaller files a reader asks for nearly all anyway."""
_SAME_TIME_S = 1e-3


class RemoteStore(Store):
    """Outputs of stages in a bucket.

    Args:
        uri: see `Bucket`.
        working_copy: a directory of this store alone; by default one below `$XDG_CACHE_HOME/lumina/stores`. On a
            cluster it must be on a file system that all nodes share.
    """

    def __init__(self, uri: str, working_copy: str | Path | None = None) -> None:
        self.bucket = Bucket(uri)
        super().__init__(working_copy or _default_copy(self.bucket.uri), self.bucket)
        self.uri = uri
        self._fetching = threading.Lock()

    def _read(self, key: str) -> Record | None:
        """Of a record in the bucket, which is copied to this machine."""
        record, path = self.bucket.read(key), self.root / key
        if record is not None:
            # One that was put long ago is not the newest because somebody here looks at it.
            self._copy(path, record.text, None if path.exists() else record.modified)
        return record

    def manifests(self, stage: str) -> list[Manifest]:
        """All readable manifests of a stage, the newest first; see `Store.manifests`."""
        for name in self.bucket.folders(f"stages/{stage}"):
            path = self.root / "stages" / stage / name / "MANIFEST.json"
            if not path.exists():
                self._read(self.key(path))
        return super().manifests(stage)

    def _remove_orphans(self, directory: Path, kept: Manifest | None) -> None:
        """See `Store._remove_orphans`."""
        super()._remove_orphans(directory, kept)
        for name in self.bucket.folders(self.key(directory)):
            if name.startswith("a-") and (kept is None or name != kept.attempt):
                self._each(self.bucket.remove, [(one.key,) for one in self.bucket.entries(self.key(directory / name))])

    def _publish(self, attempt: Attempt, manifest: Manifest) -> None:
        """See `Store._publish`."""
        paths = [attempt.out / file.path for file in manifest.files]
        self._each(self.bucket.upload, [(path, self.key(path)) for path in paths])

    def _withdraw(self, attempt: Attempt, manifest: Manifest) -> None:
        """See `Store._withdraw`."""
        self._each(self.bucket.remove, [(self.key(attempt.out / file.path),) for file in manifest.files])
        super()._withdraw(attempt, manifest)

    def fetch(self, manifest: Manifest, wanted: Wanted | None = None) -> Path:
        """The output on this machine; what is not here yet is fetched, or only what is `wanted` of it.

        Raises:
            GoneError: the bucket has lost an object.
            StoreError: an object is not what was recorded, or the disk is full.
        """
        out = self.output(manifest)
        prefix = self.key(out)
        with self._fetching:
            files = [file for file in manifest.files if wanted is None or wanted(file.path)]
            missing = [file for file in files if not _is_here(out / file.path, file.bytes)]
            if wanted is not None and not missing:
                return out
            try:
                out.mkdir(parents=True, exist_ok=True)
                (out.parent / ".fetch").mkdir(exist_ok=True)
                self._each(self._fetch, [(f"{prefix}/{file.path}", out / file.path, file) for file in missing])
            except OSError as error:
                raise StoreError(f"stage {manifest.stage}: {disk_problem(error, out)}") from error
        return out

    def _fetch(self, key: str, path: Path, file: OutputFile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.root / Path(key).parents[len(Path(file.path).parts)] / ".fetch" / uuid.uuid4().hex
        try:
            digest = self.bucket.download(key, temporary)
            size = temporary.stat().st_size
            if (size, digest) != (file.bytes, file.sha256):
                found = (
                    f"{size:,} bytes, {file.bytes:,}" if size != file.bytes else f"the SHA-256 {digest}, {file.sha256}"
                )
                record = f"{'/'.join(key.split('/')[:3])}/MANIFEST.json"
                raise StoreError(
                    f"{self.bucket.name(key)} is damaged: it has {found} expected; once {self.bucket.name(record)} is "
                    "removed, the next `lumina run` computes it again"
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def borrow(self, out: Path, files: Iterable[OutputFile]) -> Iterator[Path]:
        """A temporary directory with the objects as they are now, right or wrong; see `Store.borrow`.

        Raises:
            StoreError: an object cannot be read, or the disk is full.
        """
        prefix = self.key(out)
        with tempfile.TemporaryDirectory(prefix="lumina-") as folder:
            try:
                self._each(self._borrow, [(f"{prefix}/{file.path}", Path(folder) / file.path) for file in files])
            except OSError as error:
                raise StoreError(f"{self.bucket.name(prefix)}: {disk_problem(error, Path(folder))}") from error
            yield Path(folder)

    def _borrow(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(GoneError):  # who looks for the file says so
            self.bucket.download(key, path)

    def dataset(self, manifest: Manifest) -> ds.Dataset:
        """See `Store.dataset`: fetched, but for large tables, of which the columns that are read come from the bucket.

        Raises:
            GoneError: the bucket has lost an object; of large tables, reading raises it.
            StoreError: an object is not what was recorded, or the disk is full.
        """
        files = [file for file in manifest.files if _is_table(file.path)]
        here = all(_is_here(self.output(manifest) / file.path, file.bytes) for file in files)
        if here or sum(file.bytes for file in files if file.bytes > _WHOLE_BYTES) <= _FETCHED_BYTES:
            self.fetch(manifest, _is_table)
            return super().dataset(manifest)
        import pyarrow as pa
        import pyarrow.dataset as ds

        form, prefix = ds.ParquetFileFormat(), self.key(self.output(manifest))
        opened = [self.bucket.open(f"{prefix}/{file.path}", file.bytes) for file in files]
        fragments = [form.make_fragment(pa.PythonFile(file, mode="r")) for file in opened]
        return ds.FileSystemDataset(fragments, fragments[0].physical_schema, form)

    def fetch_run(self, record: RunRecord, stages: Iterable[str] | None = None, wanted: Wanted | None = None) -> None:
        """See `Store.fetch_run`."""
        kinds = None if stages is None else set(stages)
        for name, entry in record.stages.items():
            if entry.fingerprint is None or (kinds is not None and name.partition("@")[0] not in kinds):
                continue
            manifest = self.lookup(name, entry.fingerprint)
            if manifest is not None:
                self.fetch(manifest, wanted)

    def _copy(self, path: Path, text: str, modified: float | None = None) -> None:
        """Have a record in the working copy as the bucket has it."""
        try:
            if modified is not None or not path.is_file() or path.read_text() != text:
                with replacing(path) as partial:
                    partial.write_text(text)
                    if modified is not None:
                        os.utime(partial, (modified, modified))
        except OSError as error:
            raise StoreError(f"store {self.root}: {disk_problem(error, path)}") from error

    @staticmethod
    def _each(function: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        """Call a function side by side; the first error is raised once all have ended."""
        with ThreadPoolExecutor(_THREADS, "bucket") as pool:
            for done in [pool.submit(function, *each) for each in arguments]:
                done.result()


def _is_table(path: str) -> bool:
    return path.startswith("data/")


def _is_here(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _default_copy(uri: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "lumina" / "stores" / hashlib.sha256(uri.encode()).hexdigest()[:16]
