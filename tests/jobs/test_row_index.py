from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.digest import MARK_BYTES, row_digest_and_marks
from jobs.row_index import INDEX_FILE, read_given, read_row_index, write_row_index


def test_an_index_gives_ids_and_marks_of_every_row_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    marks = {}
    for name, ids in (("b.parquet", ["x", "y"]), ("a.parquet", ["z"]), ("none.parquet", [])):
        status = ["ok" if one != "y" else "filtered" for one in ids]
        table = pa.table({"clip_id": pa.array(ids, pa.string()), "status": pa.array(status, pa.string())})
        pq.write_table(table, tmp_path / "data" / name)
        _, marks[name] = row_digest_and_marks(table)
    write_row_index(tmp_path, marks, "clip_id", {"x": b"x:given.", "y": b"y:given."})
    found = read_row_index(tmp_path)
    assert {path: ids for path, (ids, _) in found.items()} == {"data/a.parquet": ["z"], "data/b.parquet": ["x", "y"]}
    assert b"".join(found["data/b.parquet"][1]) == marks["b.parquet"]
    assert {len(mark) for mark in found["data/b.parquet"][1]} == {MARK_BYTES}
    # y was set aside, and z is not computed row by row.
    [row] = read_given(tmp_path).to_pylist()
    assert row == {"file": "data/b.parquet", "id": "x", "mark": marks["b.parquet"][:MARK_BYTES], "given": b"x:given."}


def test_an_absent_or_damaged_index_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_row_index(tmp_path)
    (tmp_path / INDEX_FILE).write_bytes(b"PAR1" * 9)
    for read in (read_row_index, read_given):
        with pytest.raises(ValueError, match="cannot be read"):
            read(tmp_path)
