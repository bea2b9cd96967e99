"""Rows of a manifest, on the disk: as many as there are, a batch in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import overload

import pyarrow as pa

from curation.manifest_formats import ManifestRow

BATCH_ROWS = 16384
_MEMORY_BYTES = 32 << 20
_SCHEMA = pa.schema(
    {name: pa.string() for name in ("uri", "media", "source", "caption", "extra")}
    | {"span_start_s": pa.float64(), "span_end_s": pa.float64(), "fault": pa.string(), "broken": pa.string()}
)

_values = attrgetter(*_SCHEMA.names)


class ManifestRows(Sequence[ManifestRow]):
    """Reads `rows` once, into a temporary file that goes with this object."""

    def __init__(self, rows: Iterable[ManifestRow]) -> None:
        # A small one stays in memory.
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES, prefix="lumina-manifest-")  # noqa: SIM115
        self._count = 0
        iterator = iter(rows)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(pa.PythonFile(self._file, "w"), _SCHEMA, options=options) as writer:
            while found := list(map(_values, islice(iterator, BATCH_ROWS))):
                columns = zip(*found, strict=True)
                arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
                self._count += len(found)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in their order, with the fields of `ManifestRow` as columns."""
        with pa.ipc.open_file(pa.PythonFile(self._file, "r")) as file:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ManifestRow]:
        return (ManifestRow(**row) for batch in self.batches() for row in batch.to_pylist())

    @overload
    def __getitem__(self, index: int) -> ManifestRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ManifestRow]: ...
    def __getitem__(self, index: int | slice) -> ManifestRow | Sequence[ManifestRow]:
        if isinstance(index, slice):
            return list(self)[index]
        return next(islice(self, range(self._count)[index], None))
