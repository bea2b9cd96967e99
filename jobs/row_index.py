"""Which rows an output has: `rows.parquet` beside its `data`, by which a damaged row can be named.

One row per row of the data: its file, its place there, its id, a mark that tells whether it is what was written, and
for a computed row that is well a mark of what it was computed from, by which a later run knows that it need not compute
it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import MARK_BYTES
from curation.schema import Status

INDEX_FILE = "rows.parquet"
_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("mark", pa.binary(MARK_BYTES)),
        ("given", pa.binary(MARK_BYTES)),
    ]
)


def write_row_index(out: Path, marks: Mapping[str, bytes], key: str, given: Mapping[str, bytes]) -> None:
    """Write the index of the Parquet files in `out/data`.

    Args:
        out: output directory of the stage.
        marks: name of each file -> the marks of its rows, as `curation.digest.row_digest_and_marks` gives them.
        key: the text column whose values name rows.
        given: id of a row -> the mark of what it is computed from, see `jobs.units.given_marks`; empty for an operator
            whose rows are not computed one by one.
    """
    with pq.ParquetWriter(out / INDEX_FILE, _SCHEMA, compression="zstd") as writer:
        for name in sorted(marks):
            rows = pq.read_table(out / "data" / name, columns=[key, "status"] if given else [key])
            ids = rows[key].to_pylist()
            well = [status == Status.OK for status in rows["status"].to_pylist()] if given else [False] * len(ids)
            each = [marks[name][at : at + MARK_BYTES] for at in range(0, len(marks[name]), MARK_BYTES)]
            place = {"file": [f"data/{name}"] * len(ids), "row": range(len(ids))}
            what = [given.get(one) if ok else None for one, ok in zip(ids, well, strict=True)]
            columns = {**place, "id": ids, "mark": each, "given": what}
            writer.write_table(pa.table(columns, _SCHEMA))


def read_given(out: Path) -> pa.Table:
    """The columns `file`, `id`, `mark` and `given` of the rows that have the last.

    Raises:
        FileNotFoundError: the output has no index.
        ValueError: it is damaged.
    """
    return _read(out, ["file", "id", "mark", "given"], pc.is_valid(pc.field("given")))


def read_row_index(out: Path) -> dict[str, tuple[list[str], list[bytes]]]:
    """Path of each data file, relative to `out` -> ids and marks of its rows, in their order.

    Raises:
        FileNotFoundError: the output has no index.
        ValueError: it is damaged.
    """
    table = _read(out, ["file", "row", "id", "mark"]).sort_by([("file", "ascending"), ("row", "ascending")])
    found: dict[str, tuple[list[str], list[bytes]]] = {}
    for file, name, mark in zip(*(table[column].to_pylist() for column in ("file", "id", "mark")), strict=True):
        ids, marks = found.setdefault(file, ([], []))
        ids.append(name)
        marks.append(mark)
    return found


def _read(out: Path, columns: list[str], rows: pc.Expression | None = None) -> pa.Table:
    try:
        return pq.read_table(out / INDEX_FILE, schema=_SCHEMA, columns=columns, filters=rows)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{out / INDEX_FILE} cannot be read: {error}") from error
