from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.batches import BATCH, INPUT_HASH, batch_starts, cut_batches, with_input_hashes


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", None])), max_size=40), size=st.integers(1, 5))
def test_batches_hold_one_group_in_the_order_of_the_plan(rows: list, size: int) -> None:
    table = pa.table(
        {
            "status": pa.array(["ok" if ok else "filtered" for ok, _ in rows], pa.string()),
            "group": pa.array([group for _, group in rows], pa.string()),
            "at": pa.array(range(len(rows)), pa.int64()),
        }
    )
    batches = cut_batches(table, size, "group")
    starts = batch_starts(batches)
    assert sorted(batches["at"].to_pylist()) == list(range(len(rows)))
    assert batches[BATCH].to_pylist() == sorted(batches[BATCH].to_pylist())
    sizes = {}
    for number, (start, stop) in enumerate(pairwise(starts.tolist())):
        batch = batches.slice(start, stop - start)
        [key] = set(zip(batch["status"].to_pylist(), batch["group"].to_pylist(), strict=True))
        assert set(batch[BATCH].to_pylist()) == {number}
        assert batch["at"].to_pylist() == sorted(batch["at"].to_pylist())
        # All but the last of a group are full.
        assert sizes.get(key, size) == size or key[0] == "filtered"
        sizes[key] = len(batch)


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


def _hashes(table: pa.Table, size: int, group: str | None) -> dict[str, bytes]:
    hashed = with_input_hashes(cut_batches(table, size, group), ["uri"])
    found = zip(hashed["clip_id"].to_pylist(), hashed[INPUT_HASH].to_pylist(), strict=True)
    return {name: value for name, value in found if value is not None}


def test_a_row_alone_is_marked_by_what_it_is_computed_from() -> None:
    def marks(table: pa.Table) -> dict[str, bytes]:
        return _hashes(table, 1, None)

    before = marks(_rows("aaab", [1, 2, 3, 4], "wxyz"))
    assert len(set(before.values())) == 4
    assert marks(_rows("aaab", [1, 2, 3, 4], "zzzz")) == before
    after = marks(_rows("aaab", [1, 2, 7, 4], "wxyz"))
    assert {name for name in before if before[name] != after[name]} == {"c2"}
    assert marks(_rows("aaab", [1, 2, 3, 4], "wxyz").slice(1)) == {name: before[name] for name in ("c1", "c2", "c3")}


def test_a_row_of_a_batch_is_marked_by_its_batch_too() -> None:
    def marks(table: pa.Table) -> dict[str, bytes]:
        return _hashes(table, 2, "group")

    before = marks(_rows("aabba", [1, 2, 3, 4, 5], "vwxyz"))
    after = marks(_rows("aabba", [1, 9, 3, 4, 5], "vwxyz"))
    assert {name for name in before if before[name] != after[name]} == {"c0", "c1"}
    # c1 comes first now: other batches of the same group.
    shifted = marks(_rows("aabba", [1, 2, 3, 4, 5], "vwxyz").slice(1))
    assert {name for name in shifted if before[name] == shifted[name]} == {"c2", "c3"}


def test_rows_that_are_not_well_have_no_mark() -> None:
    table = _rows("aa", [1, 2], "xy").set_column(1, "status", pa.array(["ok", "filtered"]))
    assert set(_hashes(table, 1, None)) == {"c0"}
