"""Bucket that `lumina export-data` writes to: each shard is made on this machine, and uploaded once it is whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from curation.export_place import ExportFolderError
from curation.manifest_shards import EXPORT_WORK
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.lease import RECORD, holding
from pipelines.errors import StoreError, disk_problem


class BucketPlace:
    """A prefix of a bucket; see `curation.export_place.ExportPlace`. StoreError where it cannot be used.

    Args:
        uri: see `Bucket`.
    """

    def __init__(self, uri: str) -> None:
        self._bucket = Bucket(uri, "--out")

    @property
    def name(self) -> str:
        """Its URI without options."""
        return self._bucket.uri

    def names(self, folder: str) -> Mapping[str, int | None]:
        """See `ExportPlace.names`."""
        return self._bucket.children(folder)

    def read(self, name: str) -> bytes | None:
        """See `ExportPlace.read`."""
        return self._bucket.get(name)

    def put(self, name: str, content: bytes) -> None:
        """See `ExportPlace.put`."""
        self._bucket.put(name, content)

    def take(self, path: Path, name: str) -> None:
        """See `ExportPlace.take`; an object is there once all of it is."""
        self._bucket.upload(path, name)
        path.unlink()

    def remove(self, name: str) -> None:
        """See `ExportPlace.remove`."""
        self._bucket.remove(name)

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """See `ExportPlace.alone`; the scratch folder, which holds one shard and its clips, is in `TMPDIR`."""
        # Killed at this, it leaves what the next one clears.
        self._bucket.check(EXPORT_WORK)
        with holding(self._bucket, f"{EXPORT_WORK}/{RECORD}") as other:
            if other is not None:
                raise ExportFolderError(f"another process exports into {self.name} ({other}): wait until it is done")
            with tempfile.TemporaryDirectory(prefix="lumina-export-") as scratch:
                try:
                    yield Path(scratch)
                except OSError as error:
                    raise StoreError(f"{self.name}: {disk_problem(error, Path(scratch))}") from error

    def clear(self) -> None:
        """See `ExportPlace.clear`; the lease goes when it is given back."""
        for name in self._bucket.children(EXPORT_WORK):
            if name != RECORD:
                self._bucket.remove(f"{EXPORT_WORK}/{name}")
