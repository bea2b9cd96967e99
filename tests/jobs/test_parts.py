from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.digest import RowsDigest, row_digest
from curation.operator import Layout
from jobs.parts import Part, PartWriter, link_parts, read_parts, rows_written, spans


def write(directory: Path, rows: pa.Table, batches: list[int], layout: Layout | None = None, shard: int = 0) -> Part:
    return PartWriter(directory, layout or Layout(), "number").write(rows, shard, batches)


def table(*numbers: int) -> pa.Table:
    return pa.table(
        {
            "number": pa.array(numbers, pa.int64()),
            "bucket": pa.array([str(number % 2) if number else None for number in numbers], pa.string()),
            "status": pa.array(["ok"] * len(numbers), pa.string()),
            "reason": pa.nulls(len(numbers), pa.string()),
        }
    )


def test_a_part_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = write(tmp_path, table(0, 1, 2, 3), [4, 7], Layout(split_by="bucket"))
    assert read_parts(tmp_path) == [written]
    assert [file.rows for file in written.files] == [1, 2, 1]
    assert sum((file.digest for file in written.files), RowsDigest()) == row_digest(table(3, 2, 1, 0))
    assert (written.numbers, written.counts["in"], rows_written(tmp_path)) == ({4, 7}, 4, 4)
    target = tmp_path / "target"
    target.mkdir()
    link_parts([written], tmp_path, target)
    assert sorted(pq.read_table(target)["number"].to_pylist()) == [0, 1, 2, 3]
    assert read_parts(tmp_path) == [written]


def test_row_groups_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    rows = table(*range(12)).append_column("blob", pa.array([bytes(1000)] * 12, pa.large_binary()))
    for (most_rows, most_bytes), groups in {(5, 10**6): 3, (5, 2500): 6, (5, 10): 12}.items():
        layout = Layout(row_group_size=most_rows, row_group_bytes=most_bytes)
        [file] = write(tmp_path, rows, [most_bytes], layout).files
        assert pq.read_metadata(tmp_path / file.name).num_row_groups == groups


def test_what_has_no_record_or_lost_a_file_is_no_part(tmp_path: Path) -> None:
    parts = [write(tmp_path, table(first, first + 1), [first, first + 1]) for first in (0, 2, 4, 6)]
    parts[1].record_path(tmp_path).unlink()
    (tmp_path / parts[2].files[0].name).unlink()
    parts[3].index_path(tmp_path).unlink()
    assert read_parts(tmp_path) == parts[:1]


@settings(max_examples=50)
@given(runs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(1, 5)), max_size=8))
def test_no_batch_of_a_shard_is_taken_twice(tmp_path_factory, runs: list[tuple[int, int, int]]) -> None:  # type: ignore[no-untyped-def]
    directory = tmp_path_factory.mktemp("parts")
    for shard, first, count in runs:
        write(directory, table(*range(first, first + count)), list(range(first, first + count)), shard=shard)
    batches = [(part.shard, number) for part in read_parts(directory) for number in part.numbers]
    assert len(batches) == len(set(batches))
    written = {(shard, number) for shard, first, count in runs for number in range(first, first + count)}
    assert set(batches) <= written
    assert bool(batches) == bool(written)
    assert [part for shard in (0, 1) for part in read_parts(directory, shard)] == read_parts(directory)


def test_spans_are_of_neighbours() -> None:
    assert spans([3, 4, 5, 9]) == ((3, 6), (9, 10))


@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"name": "../../secret", "rows": 1, "digest": "rows256-add/1:0:0"}]},
        {"files": [{"name": "/etc/passwd", "rows": 1, "digest": "rows256-add/1:0:0"}]},
        {"files": 3},
        {"batches": [[]]},
        {"batches": []},
        {"batches": [[5, 7]]},
        {"failed": {"x": 1}},
        {"counts": None, "shard": None},
    ],
)
def test_a_record_of_another_shape_is_no_part(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path, table(0, 1), [0, 1]).record_path(tmp_path)
    write(tmp_path, table(2, 3), [2, 3])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert [part.numbers for part in read_parts(tmp_path)] == [{2, 3}]
    for text in ("{", "[" * 5000, ""):
        path.write_text(text)
        assert [part.numbers for part in read_parts(tmp_path)] == [{2, 3}]


def test_a_file_that_is_a_link_is_no_part(tmp_path: Path) -> None:
    [file] = write(tmp_path, table(0, 1), [0, 1]).files
    (tmp_path / file.name).rename(tmp_path / "elsewhere")
    (tmp_path / file.name).symlink_to("elsewhere")
    assert read_parts(tmp_path) == []
