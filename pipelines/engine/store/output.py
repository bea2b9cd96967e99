"""A finished output, of which this machine fetches what is read and no more."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.errors import GoneError

if TYPE_CHECKING:
    import pyarrow.dataset as ds


@dataclass(frozen=True)
class Output:
    """An output and its store; as text, where it lies there."""

    store: Store
    manifest: Manifest

    def __str__(self) -> str:
        return self.store.name(self.store.output(self.manifest))

    def fetch(self, *names: str) -> Path:
        """Its directory on this machine, with these files in it; a name that ends with `/` is a folder.

        Raises:
            GoneError: a bucket has lost one of them.
            StoreError: one cannot be fetched.
        """
        files, folders = set(names), tuple(name for name in names if name.endswith("/"))
        return self.store.fetch(self.manifest, lambda path: path in files or path.startswith(folders))

    def find(self, name: str) -> Path:
        """Where a file of it lies on this machine; there is none if the store has lost it.

        Raises:
            StoreError: it cannot be fetched.
        """
        with contextlib.suppress(GoneError):  # who opens it says what there is to say
            return self.fetch(name) / name
        return self.store.output(self.manifest) / name

    def dataset(self) -> ds.Dataset:
        """The Parquet files in its `data/`.

        Raises:
            GoneError: a bucket has lost one of them.
            StoreError: one cannot be fetched.
        """
        return self.store.dataset(self.manifest)
