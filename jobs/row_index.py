"""Row index of an output: `rows.parquet` beside its `data`, by which a damaged row can be named, and others reused.

One row per row of the data: its file, its place there, its id, a content hash that tells whether it is what was
written, and for a computed row that is well the input hash of what it was computed from, by which a later run knows
that it need not compute it again. Rows of one range of ids lie side by side, as their shards did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import HASH_BYTES
from curation.operator import Shard
from curation.schema import Status
from jobs.batches import INPUT_HASH

INDEX_FILE = "rows.parquet"
_HASH = pa.binary(HASH_BYTES)
_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("content_hash", _HASH), ("input_hash", _HASH)]
)


def index_rows(name: str, rows: pa.Table, hashes: bytes, key: str, planned: pa.Table | None = None) -> pa.Table:
    """The index of one file of `data`.

    Args:
        name: of the file.
        rows: its rows, in order.
        hashes: see `curation.digest.row_digest_and_hashes`.
        key: the text column whose values name rows.
        planned: these rows among others, with `INPUT_HASH`, for an operator whose rows are computed one by one.
    """
    given = pa.nulls(len(rows), _HASH)
    if planned is not None and INPUT_HASH in planned.column_names:
        at = pc.index_in(rows[key], planned[key].combine_chunks())
        well = pc.equal(rows["status"], Status.OK)
        given = planned[INPUT_HASH].take(pc.if_else(well, at, pa.scalar(None, pa.int32())))
    content = pa.FixedSizeBinaryArray.from_buffers(_HASH, len(rows), [None, pa.py_buffer(hashes)])
    file = pa.array([f"data/{name}"], pa.string()).take(pa.array(np.zeros(len(rows), np.int64)))
    return pa.table([file, np.arange(len(rows)), rows[key].cast(pa.string()), content, given], _SCHEMA)


def write_row_index(out: Path, indexes: Iterable[pa.Table]) -> None:
    """Write the index of `out`, from those of its files."""
    with pq.ParquetWriter(out / INDEX_FILE, _SCHEMA, compression="zstd") as writer:
        for index in indexes:
            writer.write_table(index)


def read_input_hashes(out: Path, shard: Shard) -> pa.Table:
    """All columns of the rows of a shard that have an `input_hash`; errors as `RowIndex`."""
    return _read(out, _SCHEMA.names, shard.holds("id") & pc.is_valid(pc.field("input_hash")))


class RowIndex:
    """The index of an output, of which the rows of one file are in memory at a time.

    It stays open, so that it can be read on where its file is removed meanwhile.

    Raises:
        FileNotFoundError: the output has no index.
        ValueError: it is damaged.
    """

    def __init__(self, out: Path) -> None:
        with _readable(out):
            self._file = pq.ParquetFile(out / INDEX_FILE)
            if self._file.schema_arrow != _SCHEMA:
                raise ValueError(f"{out / INDEX_FILE} has other columns than an index of rows")
            groups = (self._file.metadata.row_group(at) for at in range(self._file.num_row_groups))
            self._ranges = [group.column(0).statistics for group in groups]

    def rows(self, file: str) -> pa.Table:
        """`id` and `content_hash` of the rows of a file, by its path relative to the output, in their order."""
        at = [at for at, held in enumerate(self._ranges) if held is None or held.min <= file <= held.max]
        rows = self._file.read_row_groups(at, ["file", "row", "id", "content_hash"])
        return rows.filter(pc.equal(rows["file"], file)).sort_by("row").select(["id", "content_hash"])

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _read(out: Path, columns: list[str], rows: pc.Expression | None = None) -> pa.Table:
    with _readable(out):
        return pq.read_table(out / INDEX_FILE, schema=_SCHEMA, columns=columns, filters=rows)


@contextmanager
def _readable(out: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{out / INDEX_FILE} cannot be read: {error}") from error
