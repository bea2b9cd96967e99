from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.units import cut_blocks, cut_units, given_marks


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=40),
    size=st.integers(1, 5),
    per_block=st.integers(1, 9),
)
def test_units_hold_one_group_and_blocks_hold_whole_units(rows: list, size: int, per_block: int) -> None:
    table = pa.table(
        {
            "status": pa.array(["ok" if ok else "filtered" for ok, _ in rows], pa.string()),
            "group": pa.array([group for _, group in rows], pa.string()),
            "at": pa.array(range(len(rows)), pa.int64()),
        }
    )
    blocks = cut_blocks(cut_units(table, size, "group"), per_block)
    seen = []
    for block in blocks:
        frame = block.to_pandas()
        for _, unit in frame.groupby("__unit"):
            assert len(unit) == unit["__unit_rows"].iloc[0]
            assert len(unit) <= size or unit["status"].iloc[0] == "filtered"
            assert unit[["status", "group"]].drop_duplicates().shape[0] == 1
            assert unit["at"].is_monotonic_increasing
        seen += frame["at"].tolist()
    assert sorted(seen) == list(range(len(rows)))


def _rows(groups: str, numbers: list[int], paths: str) -> pa.Table:
    return pa.table(
        {
            "clip_id": [f"c{at}" for at in range(len(numbers))],
            "status": ["ok"] * len(numbers),
            "group": list(groups),
            "number": pa.array(numbers, pa.int64()),
            "uri": list(paths),
        }
    )


def test_a_row_alone_is_marked_by_what_it_is_computed_from() -> None:
    def marks(table: pa.Table) -> dict[str, bytes]:
        return given_marks(cut_units(table, 1, None), "clip_id", ["uri"])

    before = marks(_rows("aaab", [1, 2, 3, 4], "wxyz"))
    assert len(set(before.values())) == 4
    assert marks(_rows("aaab", [1, 2, 3, 4], "zzzz")) == before
    after = marks(_rows("aaab", [1, 2, 7, 4], "wxyz"))
    assert {name for name in before if before[name] != after[name]} == {"c2"}
    assert marks(_rows("aaab", [1, 2, 3, 4], "wxyz").slice(1)) == {name: before[name] for name in ("c1", "c2", "c3")}


def test_a_row_of_a_batch_is_marked_by_its_batch_too() -> None:
    def marks(table: pa.Table) -> dict[str, bytes]:
        return given_marks(cut_units(table, 2, "group"), "clip_id", ["uri"])

    before = marks(_rows("aabba", [1, 2, 3, 4, 5], "vwxyz"))
    after = marks(_rows("aabba", [1, 9, 3, 4, 5], "vwxyz"))
    assert {name for name in before if before[name] != after[name]} == {"c0", "c1"}
    # c1 comes first now: other batches of the same group.
    shifted = marks(_rows("aabba", [1, 2, 3, 4, 5], "vwxyz").slice(1))
    assert {name for name in shifted if before[name] == shifted[name]} == {"c2", "c3"}


def test_rows_that_are_not_well_have_no_mark() -> None:
    table = _rows("aa", [1, 2], "xy").set_column(1, "status", pa.array(["ok", "filtered"]))
    assert set(given_marks(cut_units(table, 1, None), "clip_id", [])) == {"c0"}
