"""Cells of Parquet that hold the bytes of a file: a column of bytes, or of structs with `bytes` and `path`.

That is how the Hugging Face hub stores videos and images. A row group is in memory at a time.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_BYTES = 2 << 30
"""Of a column of a row group at most, as it is stated: a table that `datasets` or an export writes has a tenth."""
_ROW_DIGITS = 9
_PREFIXED = "DELTA_BYTE_ARRAY"
"""An encoding in which each value may repeat the whole of the one before it: a trick, where films are meant."""

State = tuple[int, int]
"""Time and size of a file: whether it is the one that was opened last."""


def cell_name(column: str, row: int, path: str) -> str:
    """The name of a cell in a URI: names of rows side by side sort as the rows do."""
    return f"{column}/{row:0{_ROW_DIGITS}d}/{path}"


def bytes_columns(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Those of the columns `names` that hold bytes of files."""
    return [name for name in names if name in schema.names and _holds_bytes(schema.field(name).type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_cell(table: Path, state: State, name: str) -> bytes:
    """The bytes of a cell, by `cell_name`.

    Raises:
        FileNotFoundError: there is no such cell, or it is empty.
        ValueError: the table cannot be read.
    """
    column, _, rest = name.partition("/")
    number = rest.partition("/")[0]
    if not number.isdecimal():
        raise FileNotFoundError(name)
    try:
        ends = _ends(table, state)
        group = bisect.bisect_right(ends, row := int(number))
        if group == len(ends):
            raise FileNotFoundError(name)
        cells = _group(table, state, group, column)
        value: Any = cells[row - (ends[group - 1] if group else 0)].as_py()
    except KeyError:
        raise FileNotFoundError(name) from None
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        raise ValueError("the cell holds no bytes")
    return bytes(content)


@lru_cache(maxsize=16)
def _ends(table: Path, _state: State) -> list[int]:
    """The number of the row behind each row group."""
    with pq.ParquetFile(table) as file:
        return [*accumulate(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups))]


@lru_cache(maxsize=1)
def _group(table: Path, _state: State, group: int, column: str) -> pa.ChunkedArray:
    """A column of a row group, each value of it once however often it stands there. KeyError for no such column."""
    with pq.ParquetFile(table) as file:
        leaves = [
            path for at in range(len(file.schema)) if (path := file.schema.column(at).path).split(".")[0] == column
        ]
        wanted = [path for path in leaves if path in (column, f"{column}.bytes")]
        if not wanted:
            raise KeyError(column)
        [at] = [at for at in range(len(file.schema)) if file.schema.column(at).path == wanted[0]]
        chunk = file.metadata.row_group(group).column(at)
        if chunk.total_uncompressed_size > _GROUP_BYTES:
            raise ValueError(
                f"row group {group} has {chunk.total_uncompressed_size:,} bytes of {column}, at most {_GROUP_BYTES:,} "
                "are read at a time: write the table anew with smaller row groups"
            )
        if _PREFIXED in chunk.encodings:
            raise ValueError(
                f"{column} is encoded as {_PREFIXED}, in which few bytes may stand for any number: write it anew"
            )
    with pq.ParquetFile(table, read_dictionary=wanted) as file:
        return file.read_row_group(group, columns=wanted)[column]
