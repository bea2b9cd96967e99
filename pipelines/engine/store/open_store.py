"""Opens a store by what `--store` gives: a directory, or the URI of a bucket."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pipelines.engine.store.bucket import SCHEMES, Bucket
from pipelines.engine.store.store import Store


def open_store(where: str | Path, working_copy: str | Path | None = None) -> Store:
    """The store at a directory, or in a bucket; nothing is made or asked yet.

    Args:
        where: a directory, `file://...`, `s3://...` or `gs://...`; see `pipelines.engine.store.bucket.Bucket`.
        working_copy: of a store in a bucket, see `pipelines.engine.store.working_copy`; by default a directory below
            `$XDG_CACHE_HOME/lumina/stores`.

    Raises:
        StoreError: the URI is of another kind, or obstore is not installed.
    """
    if not str(where).startswith(SCHEMES):
        return Store(where)
    bucket = Bucket(str(where))
    return Store(working_copy or _default_copy(bucket.uri), bucket)


def _default_copy(uri: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "lumina" / "stores" / hashlib.sha256(uri.encode()).hexdigest()[:16]
