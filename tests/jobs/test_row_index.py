from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from curation.digest import row_digest_and_hashes
from curation.operator import Shard
from jobs.batches import INPUT_HASH
from jobs.row_index import INDEX_FILE, RowIndex, index_rows, read_input_hashes, write_row_index


def test_an_index_gives_ids_and_hashes_of_every_row_in_order(tmp_path: Path) -> None:
    marks, indexes = {}, []
    planned = pa.table({"clip_id": ["y", "x"], INPUT_HASH: pa.array([b"y:given.", b"x:given."], pa.binary(8))})
    for name, ids in (("b.parquet", ["x", "y"]), ("a.parquet", ["z"]), ("none.parquet", [])):
        status = ["ok" if one != "y" else "filtered" for one in ids]
        table = pa.table({"clip_id": pa.array(ids, pa.string()), "status": pa.array(status, pa.string())})
        _, marks[name] = row_digest_and_hashes(table)
        indexes.append(index_rows(name, table, marks[name], "clip_id", planned))
    write_row_index(tmp_path, indexes)
    with closing(RowIndex(tmp_path)) as index:
        (tmp_path / INDEX_FILE).rename(tmp_path / "away")
        found = {name: index.rows(f"data/{name}") for name in (*marks, "other.parquet")}
        assert [rows["id"].to_pylist() for rows in found.values()] == [["x", "y"], ["z"], [], []]
        assert b"".join(found["b.parquet"]["content_hash"].to_pylist()) == marks["b.parquet"]
        (tmp_path / "away").rename(tmp_path / INDEX_FILE)
    # y was set aside, and z is not computed row by row.
    [row] = read_input_hashes(tmp_path, Shard("w", "y")).to_pylist()
    assert (row["file"], row["row"], row["id"], row["input_hash"]) == ("data/b.parquet", 0, "x", b"x:given.")
    assert not len(read_input_hashes(tmp_path, Shard("xx")))


def test_an_absent_or_damaged_index_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RowIndex(tmp_path)
    (tmp_path / INDEX_FILE).write_bytes(b"PAR1" * 9)
    with pytest.raises(ValueError, match="cannot be read"):
        RowIndex(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_input_hashes(tmp_path, Shard())
