"""Shards: ranges of row ids into which a curation stage is cut, by its inputs' size alone, and their way over the disk.

All tables of curation are keyed by hashes, so equal ranges hold about equally many rows, and each stage finds the rows
of a range in few files of the stage before. Where rows get other ids, they are exchanged: each shard writes a file with
a slice for every range, and each range reads its slice of every file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.operator import Input, Shard
from lumina.files import replacing

SHARD_ROWS = 16384
"""Rows of a shard at most, as far as ids are hashes: some 20 MB."""
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class TableFile:
    """A Parquet file, and which ids it may have."""

    path: str
    rows: int
    least: str
    greatest: str | None
    """None is no bound."""


def table_files(directory: Path, key: str) -> list[TableFile]:
    """The Parquet files in `directory`, by their footers; none if there is no such directory."""
    found = []
    for path in sorted(directory.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            footer = file.metadata
        bounds: list[tuple[str, str | None]] = []
        for group in range(footer.num_row_groups):
            columns = (footer.row_group(group).column(column) for column in range(footer.num_columns))
            told = next((column.statistics for column in columns if column.path_in_schema == key), None)
            bounds.append((told.min, told.max) if told is not None and told.has_min_max else ("", None))
        highs = [high for _, high in bounds if high is not None]
        greatest = max(highs) if len(highs) == len(bounds) > 0 else None
        found.append(TableFile(str(path), footer.num_rows, min((low for low, _ in bounds), default=""), greatest))
    return found


def cut_shards(rows: int) -> list[Shard]:
    """Ranges of ids for so many rows: a power of two of them, so that growth seldom moves a row to another range."""
    count = 1
    while count * SHARD_ROWS < rows:
        count *= 2
    return [Shard(low, high) for low, high in pairwise(["", *_bounds(count), ""])]


def _bounds(count: int) -> list[str]:
    """Least ids of all ranges but the first."""
    return [f"{(number << 32) // count:08x}" for number in range(1, count)]


def cut_inputs(
    inputs: Mapping[str, Input], tables: Mapping[str, Sequence[TableFile]], shards: Sequence[Shard]
) -> list[dict[str, Input]]:
    """What each shard reads: of tables the files that may hold its rows."""
    if len(shards) == 1:
        return [dict(inputs)]
    held = {name: files_of(files, shards) for name, files in tables.items() if files}
    return [
        {
            name: replace(one, files=held[name][number], shard=shard) if name in held else one
            for name, one in inputs.items()
        }
        for number, shard in enumerate(shards)
    ]


def files_of(files: Sequence[TableFile], shards: Sequence[Shard]) -> list[tuple[str, ...]]:
    """For each shard the paths of the files that may hold its rows; one at least, for its columns."""
    paths = [file.path for file in files]
    least = np.array([file.least for file in files])
    unbounded = np.array([file.greatest is None for file in files])
    greatest = np.array([file.greatest or "" for file in files])
    found = []
    for shard in shards:
        is_in = unbounded | (greatest >= shard.low)
        if shard.high:
            is_in &= least < shard.high
        found.append(tuple(paths[at] for at in np.flatnonzero(is_in)) or (paths[0],))
    return found


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of a shard, for those who compute it."""
    _write(path, table.schema, table.to_batches())


def read_table(path: Path) -> pa.Table:
    """The table that `write_table` wrote."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def write_slices(path: Path, rows: pa.Table, key: str, count: int) -> None:
    """Write the rows by the range that their ids are in, of so many."""
    bounds = np.array(_bounds(count), dtype=str)
    numbers = np.searchsorted(bounds, rows[key].to_numpy(zero_copy_only=False).astype(str), side="right")
    rows = rows.take(pa.array(np.argsort(numbers, kind="stable")))
    ends = np.cumsum(np.bincount(numbers, minlength=count)).tolist()
    slices = (rows.slice(start, stop - start) for start, stop in pairwise([0, *ends]))
    _write(path, rows.schema, map(_one_batch, slices))


def read_slices(paths: Iterable[Path], number: int) -> pa.Table:
    """The rows of one range from all shards, in their order."""
    found = []
    for path in paths:
        with pa.memory_map(str(path)) as file:
            found.append(pa.Table.from_batches([pa.ipc.open_file(file).get_batch(number)]))
    return pa.concat_tables(found)


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    found: list[pa.RecordBatch] = rows.combine_chunks().to_batches()
    return found[0] if found else pa.RecordBatch.from_pylist([], schema=rows.schema)


def _write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with replacing(path) as partial, pa.ipc.new_file(str(partial), schema, options=_COMPRESSED) as writer:
        for batch in batches:
            writer.write_batch(batch)
