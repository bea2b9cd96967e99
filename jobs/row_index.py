"""Which rows an output has: `rows.parquet` beside its `data`, by which a damaged row can be named.

One row per row of the data: its file, its place there, its id, and a mark that tells whether it is what was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation.digest import MARK_BYTES

INDEX_FILE = "rows.parquet"
_SCHEMA = pa.schema([("file", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("mark", pa.binary(MARK_BYTES))])


def write_row_index(out: Path, marks: Mapping[str, bytes], key: str) -> None:
    """Write the index of the Parquet files in `out/data`.

    Args:
        out: output directory of the stage.
        marks: name of each file -> the marks of its rows, as `curation.digest.row_digest_and_marks` gives them.
        key: the text column whose values name rows.
    """
    with pq.ParquetWriter(out / INDEX_FILE, _SCHEMA, compression="zstd") as writer:
        for name in sorted(marks):
            ids = pq.read_table(out / "data" / name, columns=[key])[key]
            each = [marks[name][at : at + MARK_BYTES] for at in range(0, len(marks[name]), MARK_BYTES)]
            place = {"file": [f"data/{name}"] * len(ids), "row": range(len(ids))}
            writer.write_table(pa.table({**place, "id": ids.cast(pa.string()), "mark": each}, _SCHEMA))


def read_row_index(out: Path) -> dict[str, tuple[list[str], list[bytes]]]:
    """Path of each data file, relative to `out` -> ids and marks of its rows, in their order.

    Raises:
        FileNotFoundError: the output has no index.
        ValueError: it is damaged.
    """
    try:
        table = pq.read_table(out / INDEX_FILE, schema=_SCHEMA).sort_by([("file", "ascending"), ("row", "ascending")])
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{out / INDEX_FILE} cannot be read: {error}") from error
    found: dict[str, tuple[list[str], list[bytes]]] = {}
    for file, name, mark in zip(*(table[column].to_pylist() for column in ("file", "id", "mark")), strict=True):
        ids, marks = found.setdefault(file, ([], []))
        ids.append(name)
        marks.append(mark)
    return found
