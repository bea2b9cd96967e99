"""Rows of a recorded run as Arrow datasets, and ranges of ids to read them by: memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from curation.operator import Shard

_SHARDS = 4
"""Shards of curation that are read together, 65,536 rows at most."""


def recorded_rows(store: Store, record: RunRecord, stage: str) -> ds.Dataset:
    """The rows that a run recorded of a stage, even if their manifest is lost since."""
    from curation.operator import dataset

    entry = record.stages[stage]
    manifest = store.lookup(stage, entry.fingerprint) if entry.fingerprint else None
    path = store.root / (entry.path or "")
    return store.dataset(manifest) if manifest and store.output(manifest) == path else dataset(path / "data")


def id_ranges(rows: ds.Dataset) -> list[Shard]:
    """Ranges of ids in ascending order, with about equally many rows each, for all tables of these clips."""
    from jobs.shards import cut_shards

    return cut_shards(rows.count_rows() // _SHARDS)


@contextmanager
def reading(run: str, what: str) -> Iterator[None]:
    """Name the run where its rows cannot be read: StoreError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise StoreError(f"run {run}: its {what} cannot be read: {error}") from error
