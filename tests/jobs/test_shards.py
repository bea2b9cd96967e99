from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.operator import Input
from jobs.shards import SHARD_ROWS, cut_inputs, cut_shards, read_slices, table_files, write_slices

IDS = st.text("0123456789abcdefxyz", min_size=1, max_size=9)


@settings(max_examples=30)
@given(tables=st.lists(st.lists(IDS, max_size=9), min_size=1, max_size=3), power=st.integers(0, 3))
def test_every_row_is_in_one_shard_however_it_is_cut(tmp_path_factory, tables: list, power: int) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("shards")
    (root / "data").mkdir()
    for number, ids in enumerate(tables):
        pq.write_table(pa.table({"clip_id": pa.array(ids, pa.string())}), root / "data" / f"{number}.parquet")
    shards = cut_shards(SHARD_ROWS * 2**power)
    assert len(shards) == 2**power
    files = table_files(root / "data", "clip_id")
    assert sum(file.rows for file in files) == sum(map(len, tables))
    cut = [
        one["clips"].rows()["clip_id"].to_pylist()
        for one in cut_inputs({"clips": Input(root)}, {"clips": files}, shards)
    ]
    assert sorted(name for names in cut for name in names) == sorted(name for ids in tables for name in ids)

    paths = [root / f"{number}.arrow" for number in range(len(tables))]
    for path, ids in zip(paths, tables, strict=True):
        write_slices(path, pa.table({"clip_id": pa.array(ids, pa.string())}), "clip_id", len(shards))
    sliced = [read_slices(paths, number)["clip_id"].to_pylist() for number in range(len(shards))]
    assert [sorted(names) for names in sliced] == [sorted(names) for names in cut]


def test_a_shard_reads_only_files_that_may_hold_its_rows(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(4):
        pq.write_table(
            pa.table({"clip_id": [f"{4 * number:x}1", f"{4 * number + 3:x}f"]}), tmp_path / "data" / f"{number}.parquet"
        )
    files = table_files(tmp_path / "data", "clip_id")
    cut = cut_inputs({"clips": Input(tmp_path)}, {"clips": files}, cut_shards(4 * SHARD_ROWS))
    assert [[Path(path).name for path in one["clips"].files or ()] for one in cut] == [
        [f"{n}.parquet"] for n in range(4)
    ]
