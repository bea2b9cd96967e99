"""Write Ray Data blocks as Parquet files whose digests are computed where they are written."""

from __future__ import annotations

import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data.datasource import Datasink, WriteResult

from curation.digest import RowsDigest, row_digest
from curation.operator import Layout
from curation.schema import counts

_PART = re.compile(r"part-\d+-\d+-n(\d+)\.parquet")


@dataclass(frozen=True)
class Part:
    """One written file."""

    name: str
    rows: int
    digest: RowsDigest
    counts: Counter[str] = field(hash=False)


def write_parts(table: pa.Table, directory: Path, index: int, layout: Layout) -> list[Part]:
    """Write `table` as one file, or one per value of `layout.split_by`; names derive from `index` alone.

    A file appears under its name only when it is complete, so a task that runs twice overwrites its own files.
    """
    tables = [table]
    if layout.split_by is not None:
        column = table[layout.split_by]
        values = sorted(pc.unique(column).to_pylist(), key=lambda value: (value is None, value))
        tables = [
            table.filter(pc.is_null(column) if value is None else pc.equal(column, value).fill_null(False))
            for value in values
        ]
    parts = []
    for number, rows in enumerate(tables):
        name = f"part-{index:06}-{number:03}-n{len(rows)}.parquet"
        partial = directory / f".{name}.{uuid.uuid4().hex}"
        pq.write_table(
            rows,
            partial,
            row_group_size=layout.row_group_size,
            compression=layout.compression,
            use_dictionary=layout.use_dictionary,
        )
        os.replace(partial, directory / name)
        parts.append(Part(name, len(rows), row_digest(rows), Counter(counts(rows))))
    return parts


def rows_written(directory: Path) -> int:
    """Rows of the finished files in `directory`, from their names alone."""
    matches = (_PART.fullmatch(path.name) for path in directory.iterdir())
    return sum(int(match[1]) for match in matches if match)


class PartsSink(Datasink[list[Part]]):
    """Collects the parts that the write tasks report; leftovers of failed attempts at a task are removed."""

    def __init__(self, directory: Path, schema: pa.Schema, layout: Layout) -> None:
        self.directory, self.schema, self.layout = directory, schema, layout
        self.parts: list[Part] = []

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> list[Part]:
        """Write all blocks of one task."""
        tables = [block.cast(self.schema) for block in blocks if block.num_rows]
        if not tables:
            return []
        return write_parts(pa.concat_tables(tables).combine_chunks(), self.directory, ctx.task_idx, self.layout)

    def on_write_complete(self, write_result: WriteResult[list[Part]]) -> None:
        """Keep exactly the files of the tasks that counted."""
        self.parts = sorted((p for parts in write_result.write_returns for p in parts), key=lambda part: part.name)
        names = {part.name for part in self.parts}
        for path in self.directory.iterdir():
            if path.name not in names:
                path.unlink()
