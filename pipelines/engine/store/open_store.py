"""Opens a store by what `--store` gives: a directory, or the URI of a bucket."""

from __future__ import annotations

from pathlib import Path

from pipelines.engine.store.bucket import SCHEMES
from pipelines.engine.store.store import Store


def open_store(where: str | Path, working_copy: str | Path | None = None) -> Store:
    """The store at a directory, or in a bucket; nothing is made or asked yet.

    Args:
        where: a directory, `file://...`, `s3://...` or `gs://...`; see `pipelines.engine.store.bucket.Bucket`.
        working_copy: of a store in a bucket; see `pipelines.engine.store.remote.RemoteStore`.

    Raises:
        StoreError: the URI is of another kind, or obstore is not installed.
    """
    if str(where).startswith(SCHEMES):
        from pipelines.engine.store.remote import RemoteStore

        return RemoteStore(str(where), working_copy)
    return Store(where)
