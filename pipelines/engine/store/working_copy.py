"""Working copy: the directory on this machine where stages write the files of outputs, and readers open them.

Of a store in a directory that is where they lie anyway. Of one in a bucket, which is the truth, an output is uploaded
before its manifest, and one of another machine is downloaded when something here reads it. Scratch of unfinished
stages, logs and the database of MLflow are on one machine alone, so a stage that another one takes over starts anew.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


class WorkingCopy(Protocol):
    """Files of attempts, each in the directory `out` of this machine.

    Errors of disk or bucket are StoreErrors, but for `upload`, which leaves those of the disk as they are.
    """

    def upload(self, out: Path, files: Iterable[OutputFile]) -> None:
        """Have the files of a complete attempt, all that it has, where a manifest may name them."""

    def download(self, out: Path, files: Sequence[OutputFile]) -> None:
        """Have these files here as they were recorded.

        Raises:
            GoneError: one is lost.
            StoreError: one is not what was recorded.
        """

    def download_temp(self, out: Path, files: Iterable[OutputFile]) -> contextlib.AbstractContextManager[Path]:
        """A directory with these files as they are now, right or wrong, in a context; lost ones are not in it."""

    def dataset(self, out: Path, files: Iterable[OutputFile]) -> ds.Dataset:
        """The Parquet files in `data/`, of all `files` of the output.

        Raises:
            GoneError: one is lost; of large tables, reading raises it.
            StoreError: one is not what was recorded.
        """

    def remove(self, out: Path) -> None:
        """Remove an attempt, here and for all machines."""


class InPlace:
    """Files that lie where all machines see them; see `WorkingCopy`."""

    def upload(self, out: Path, files: Iterable[OutputFile]) -> None:
        """See `WorkingCopy.upload`."""
        sync_tree(out)

    def download(self, out: Path, files: Sequence[OutputFile]) -> None:
        """Nothing: they are here."""

    @contextlib.contextmanager
    def download_temp(self, out: Path, files: Iterable[OutputFile]) -> Iterator[Path]:
        """See `WorkingCopy.download_temp`."""
        yield out

    def dataset(self, out: Path, files: Iterable[OutputFile]) -> ds.Dataset:
        """See `WorkingCopy.dataset`."""
        return _dataset(out)

    def remove(self, out: Path) -> None:
        """See `WorkingCopy.remove`."""
        remove(out)


class BucketCopy:
    """Files of a bucket; see `WorkingCopy`.

    Args:
        root: directory of this store alone. On a cluster it must be on a file system that all nodes share.
        bucket: has an object for each file below `root`, with the same path.
    """

    def __init__(self, root: Path, bucket: Bucket) -> None:
        self.root, self.bucket = root, bucket
        self._downloading = threading.Lock()

    def upload(self, out: Path, files: Iterable[OutputFile]) -> None:
        """See `WorkingCopy.upload`."""
        _each(self.bucket.upload, [(out / file.path, self._key(out / file.path)) for file in files])

    def download(self, out: Path, files: Sequence[OutputFile]) -> None:
        """See `WorkingCopy.download`; those that are here with the recorded size are left alone."""
        try:
            with self._downloading:
                out.mkdir(parents=True, exist_ok=True)
                _each(self._download, [(out / file.path, file) for file in files if not _is_here(out, file)])
        except OSError as error:
            raise StoreError(f"stage {out.parents[1].name}: {disk_problem(error, out)}") from error

    def _download(self, path: Path, file: OutputFile) -> None:
        key = self._key(path)
        with replacing(path) as partial:
            digest = self.bucket.download(key, partial)
            size = partial.stat().st_size
            if (size, digest) != (file.bytes, file.sha256):
                found = (
                    f"{size:,} bytes, {file.bytes:,}" if size != file.bytes else f"the SHA-256 {digest}, {file.sha256}"
                )
                record = f"{'/'.join(key.split('/')[:3])}/MANIFEST.json"
                raise StoreError(
                    f"{self.bucket.name(key)} is damaged: it has {found} expected; once {self.bucket.name(record)} is "
                    "removed, the next `lumina run` computes it again"
                )

    @contextlib.contextmanager
    def download_temp(self, out: Path, files: Iterable[OutputFile]) -> Iterator[Path]:
        """See `WorkingCopy.download_temp`."""
        with tempfile.TemporaryDirectory(prefix="lumina-") as folder:
            try:
                _each(self._download_as_is, [(out / file.path, Path(folder) / file.path) for file in files])
            except OSError as error:
                raise StoreError(f"{self.bucket.name(self._key(out))}: {disk_problem(error, Path(folder))}") from error
            yield Path(folder)

    def _download_as_is(self, path: Path, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(GoneError):  # who looks for the file says so
            self.bucket.download(self._key(path), copy)

    def dataset(self, out: Path, files: Iterable[OutputFile]) -> ds.Dataset:
        """See `WorkingCopy.dataset`; of large tables, the columns that are read come from the bucket."""
        tables = [file for file in files if file.path.startswith("data/")]
        large = sum(file.bytes for file in tables if file.bytes > _WHOLE_BYTES)
        if large <= _DOWNLOADED_BYTES or all(_is_here(out, file) for file in tables):
            self.download(out, tables)
            return _dataset(out)
        import pyarrow as pa
        import pyarrow.dataset as ds

        form = ds.ParquetFileFormat()
        opened = [self.bucket.open(self._key(out / file.path), file.bytes) for file in tables]
        fragments = [form.make_fragment(pa.PythonFile(file, mode="r")) for file in opened]
        return ds.FileSystemDataset(fragments, fragments[0].physical_schema, form)

    def remove(self, out: Path) -> None:
        """See `WorkingCopy.remove`."""
        _each(self.bucket.remove, [(one.key,) for one in self.bucket.entries(self._key(out))])
        remove(out)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _dataset(out: Path) -> ds.Dataset:
    import pyarrow.dataset as ds  # brings pandas along, which a plan does without

    return ds.dataset(out / "data", format="parquet")


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
