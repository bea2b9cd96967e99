"""Working copy: the directory on this machine where stages write the files of outputs, and readers open them.

Of a store in a directory that is where they lie anyway. Of one in a bucket, which is the truth, an output is uploaded
before its manifest, and one of another machine is downloaded when something here reads it. Scratch of unfinished
stages, logs and the database of MLflow are on one machine alone, so a stage that another one takes over starts anew.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.files import replacing
from pipelines.engine.store.atomic_io import sync_tree
from pipelines.engine.store.attempt import remove
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.manifest import OutputFile
from pipelines.errors import GoneError, StoreError, disk_problem

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_THREADS = 8
_WHOLE_BYTES = 256 << 10
_DOWNLOADED_BYTES = 64 << 20
"""Tables whose files above `_WHOLE_BYTES` have more than this in all are read where they lie: most of it is in columns
that nobody looks at. Of smaller files a reader asks for nearly all anyway."""


class WorkingCopy:
    """Files of attempts, each in the directory `out` of this machine.

    Args:
        root: directory of the store; of one in a bucket, its alone, and on a cluster one that all nodes share.
        bucket: where all machines look, if not there: an object for each file, with the same path below `root`.
    """

    def __init__(self, root: Path, bucket: Bucket | None) -> None:
        self.root, self.bucket = root, bucket
        self._downloading = threading.Lock()

    def upload(self, out: Path, files: Iterable[OutputFile]) -> None:
        """Have the files of a complete attempt, all that it has, where a manifest may name them.

        Raises:
            OSError: of the disk.
            StoreError: of the bucket.
        """
        if self.bucket is None:
            sync_tree(out)
        else:
            _each(self.bucket.upload, [(out / file.path, self._key(out / file.path)) for file in files])

    def download(self, out: Path, files: Iterable[OutputFile]) -> None:
        """Have these files here as they were recorded; those that are, with the recorded size, are left alone.

        Raises:
            GoneError: the bucket has lost one.
            StoreError: one is not what was recorded, or the disk is full.
        """
        if self.bucket is None:
            return
        try:
            with self._downloading:
                out.mkdir(parents=True, exist_ok=True)
                missing = [file for file in files if not _is_here(out, file)]
                _each(self._download, [(self.bucket, out / file.path, file) for file in missing])
        except OSError as error:
            raise StoreError(f"stage {out.parents[1].name}: {disk_problem(error, out)}") from error

    def _download(self, bucket: Bucket, path: Path, file: OutputFile) -> None:
        key = self._key(path)
        with replacing(path) as partial:
            digest = bucket.download(key, partial)
            size = partial.stat().st_size
            if (size, digest) != (file.bytes, file.sha256):
                found = (
                    f"{size:,} bytes, {file.bytes:,}" if size != file.bytes else f"the SHA-256 {digest}, {file.sha256}"
                )
                record = f"{'/'.join(key.split('/')[:3])}/MANIFEST.json"
                raise StoreError(
                    f"{bucket.name(key)} is damaged: it has {found} expected; once {bucket.name(record)} is removed, "
                    "the next `lumina run` computes it again"
                )

    @contextlib.contextmanager
    def download_temp(self, out: Path, files: Iterable[OutputFile]) -> Iterator[Path]:
        """A directory with these files as they are now, right or wrong; lost ones are not in it.

        Raises:
            StoreError: the bucket cannot be read, or the disk is full.
        """
        if self.bucket is None:
            yield out
            return
        with tempfile.TemporaryDirectory(prefix="lumina-") as folder:
            copies = [(self.bucket, out / file.path, Path(folder) / file.path) for file in files]
            try:
                _each(self._download_as_is, copies)
            except OSError as error:
                raise StoreError(f"{self.bucket.name(self._key(out))}: {disk_problem(error, Path(folder))}") from error
            yield Path(folder)

    def _download_as_is(self, bucket: Bucket, path: Path, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(GoneError):  # who looks for the file says so
            bucket.download(self._key(path), copy)

    def dataset(self, out: Path, files: Iterable[OutputFile]) -> ds.Dataset:
        """The Parquet files in `data/`, of all `files` of the output. Of large ones, a bucket is asked for the columns
        that are read.

        Raises:
            GoneError: the bucket has lost one; of large tables, reading raises it.
            StoreError: one is not what was recorded, or the disk is full.
        """
        import pyarrow as pa  # Arrow's datasets bring pandas along, which a plan does without
        import pyarrow.dataset as ds

        tables = [file for file in files if file.path.startswith("data/")]
        large = sum(file.bytes for file in tables if file.bytes > _WHOLE_BYTES) > _DOWNLOADED_BYTES
        if self.bucket is None or not large or all(_is_here(out, file) for file in tables):
            self.download(out, tables)
            return ds.dataset(out / "data", format="parquet")
        form = ds.ParquetFileFormat()
        opened = [self.bucket.open(self._key(out / file.path), file.bytes) for file in tables]
        fragments = [form.make_fragment(pa.PythonFile(file, mode="r")) for file in opened]
        return ds.FileSystemDataset(fragments, fragments[0].physical_schema, form)

    def remove(self, out: Path) -> None:
        """Remove an attempt, here and for all machines."""
        if self.bucket is not None:
            _each(self.bucket.remove, [(one.key,) for one in self.bucket.entries(self._key(out))])
        remove(out)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _is_here(out: Path, file: OutputFile) -> bool:
    try:
        return (out / file.path).stat().st_size == file.bytes
    except OSError:
        return False


def _each(function: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call a function side by side; the first error is raised once all have ended."""
    with ThreadPoolExecutor(_THREADS, "bucket") as pool:
        for done in [pool.submit(function, *each) for each in arguments]:
            done.result()
