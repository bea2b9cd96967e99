"""Parquet from outside: read in batches, and only as much as a file of its size can hold without a trick.

A value that is stored once may stand in any number of rows, and a run of rows is a number: a file of a kilobyte can
ask for a terabyte. So values stay in their dictionaries until it is known what they come to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.manifest_mistakes import ManifestError

_FREE_BYTES = 64 << 20
_RATIO = 200
_VALUE_BYTES = 8
_ROW_BYTES = 64
_BATCH_ROWS = 4096
_SIMPLE = frozenset({"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE", "BIT_PACKED"})
_PREFIXED_ROWS = 8
"""Of an encoding in which each value may repeat the whole of the one before it."""


class SmallParquet:
    """An open file that states no more than it may hold."""

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self._path, self._file = path, file
        self._bytes = path.stat().st_size
        self._most = _FREE_BYTES + _RATIO * self._bytes
        chunks = [
            file.metadata.row_group(group).column(column)
            for group in range(file.metadata.num_row_groups)
            for column in range(file.metadata.num_columns)
        ]
        stated = sum(max(chunk.total_uncompressed_size, _VALUE_BYTES * chunk.num_values) for chunk in chunks)
        self._check(max(stated, _ROW_BYTES * file.metadata.num_rows), "")
        prefixed = any("DELTA_BYTE_ARRAY" in chunk.encodings for chunk in chunks)
        self._rows = _PREFIXED_ROWS if prefixed else _BATCH_ROWS

    @property
    def names(self) -> list[str]:
        """Columns."""
        return list(self._file.schema_arrow.names)

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        return self._file.schema_arrow

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Rows, some at a time. ManifestError where they come to more than a file of its size may hold.

        Args:
            columns: those that are read, `column.child` for a part of one; all by default.
        """
        total = row = 0
        # A batch of several groups has several dictionaries, which pyarrow does not join inside structs.
        groups = ([group] for group in range(self._file.num_row_groups))
        for batch in chain.from_iterable(self._file.iter_batches(self._rows, one, columns) for one in groups):
            total += _ROW_BYTES * len(batch) + sum(map(_size, batch.columns))
            self._check(total, f", row {row + 1}")
            row += len(batch)
            yield batch

    def _check(self, wanted: int, where: str) -> None:
        if wanted > self._most:
            raise ManifestError(
                f"manifest {self._path}{where}: a file of {self._bytes:,} bytes that unpacks to over {wanted:,}; at "
                f"most {self._most:,} are read of so few: write it anew, or as CSV"
            )


@contextmanager
def small_parquet(path: Path) -> Iterator[SmallParquet]:
    """Open a file. ManifestError if it states more than it may hold, pa.ArrowException or OSError if it is none."""
    with pq.ParquetFile(path) as file:
        texts = _stored_once(file)
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        yield SmallParquet(path, file)


def _stored_once(file: pq.ParquetFile) -> list[str]:
    """Columns of text that can be left in their dictionaries."""
    found = []
    for column in range(len(file.schema)):
        known = file.schema.column(column)
        groups = range(file.metadata.num_row_groups)
        encodings = {one for group in groups for one in file.metadata.row_group(group).column(column).encodings}
        if str(known.logical_type) == "String" and encodings <= _SIMPLE:
            found.append(known.path)
    return found


def _size(array: pa.Array) -> int:
    """Bytes of the values of an array, each as often as it stands there."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.cast(pc.binary_length(array.dictionary), pa.int64())
        return pc.sum(lengths.take(array.indices)).as_py() or 0
    if pa.types.is_map(array.type) or pa.types.is_struct(array.type):
        parts = (array.keys, array.items) if pa.types.is_map(array.type) else array.flatten()
        return sum(map(_size, parts))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return array.nbytes - array.values.nbytes + _size(array.flatten())
    return int(array.nbytes)
