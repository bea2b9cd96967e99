from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.digest import HASH_BYTES, RowsDigest, row_digest, row_digest_and_hashes

SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "score": pa.float32(),
        "count": pa.int64(),
        "flag": pa.bool_(),
        "blob": pa.large_binary(),
        "series": pa.list_(pa.float32()),
        "rules": pa.list_(pa.string()),
    }
)
ROW = st.fixed_dictionaries(
    {
        "name": st.none() | st.text(max_size=5),
        "score": st.none() | st.floats(width=32),
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "flag": st.none() | st.booleans(),
        "blob": st.none() | st.binary(max_size=5),
        "series": st.none() | st.lists(st.none() | st.floats(width=32), max_size=3),
        "rules": st.none() | st.lists(st.text(max_size=3), max_size=3),
    }
)


@settings(max_examples=60)
@given(rows=st.lists(ROW, max_size=8))
def test_marks_belong_to_rows_and_add_up_to_the_digest(rows: list[dict]) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    digest, hashes = row_digest_and_hashes(table)
    assert digest == row_digest(table)
    each = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    assert each == [row_digest_and_hashes(table.slice(at, 1))[1] for at in range(len(rows))]
    assert sum(int.from_bytes(mark, "big") for mark in each) % 2**64 == digest.total % 2**64


@settings(max_examples=60)
@given(rows=st.lists(ROW, max_size=8), cut=st.integers(0, 8), seed=st.randoms(use_true_random=False))
def test_order_chunks_and_columns_do_not_matter(rows: list[dict], cut: int, seed: random.Random) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    shuffled = list(rows)
    seed.shuffle(shuffled)
    other = pa.Table.from_pylist(shuffled, schema=SCHEMA).select(sorted(SCHEMA.names, reverse=True))
    chunked = pa.concat_tables([other.slice(0, cut), other.slice(cut)])
    assert row_digest(table) == row_digest(chunked)
    assert row_digest(table) == row_digest(table.slice(0, cut)) + row_digest(table.slice(cut))
    assert RowsDigest.parse(str(row_digest(table))) == row_digest(table)


@settings(max_examples=60)
@given(row=ROW, column=st.sampled_from(SCHEMA.names), other=ROW)
def test_any_changed_value_shows(row: dict, column: str, other: dict) -> None:
    changed = {**row, column: other[column]}
    first, second = (pa.Table.from_pylist([r], schema=SCHEMA) for r in (row, changed))
    same = first.column(column).chunk(0).equals(second.column(column).chunk(0))
    if same or not _has_nan(row[column], other[column]):
        negative_zero = repr(row[column]) != repr(changed[column])
        assert (row_digest(first) == row_digest(second)) == (same and not negative_zero)


def _has_nan(*values: object) -> bool:
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    return any(isinstance(v, float) and math.isnan(v) for v in flat)


def test_the_scheme_is_as_written() -> None:
    table = pa.table({"b": pa.array([None], pa.int32()), "a": ["x"]})

    def size(n: int) -> bytes:
        return n.to_bytes(8, "little")

    row = b"lumina-row/1" + size(1) + b"a" + size(6) + b"string" + b"\1" + size(1) + b"x"
    row += size(1) + b"b" + size(5) + b"int32" + b"\0"
    assert str(row_digest(table)) == f"rows256-add/1:1:{hashlib.sha256(row).hexdigest()}"


def test_parquet_layout_does_not_matter(tmp_path: Path) -> None:
    table = pa.table({"k": [str(i) for i in range(100)], "v": [i / 7 for i in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7, compression="zstd")
    pq.write_table(table, tmp_path / "b.parquet", use_dictionary=False, compression="none")
    read = [pq.read_table(tmp_path / name, read_dictionary=["k"]) for name in ("a.parquet", "b.parquet")]
    wide = table.cast(pa.schema({"k": pa.large_string(), "v": pa.float64()}))
    assert {row_digest(t) for t in [table, wide, *read]} == {row_digest(table)}


def test_duplicates_do_not_cancel_and_types_count() -> None:
    table = pa.table({"k": ["a", "a"]})
    assert row_digest(table) != row_digest(table.slice(0, 0))
    assert row_digest(pa.table({"k": pa.array([1], pa.int32())})) != row_digest(pa.table({"k": [1]}))
    with pytest.raises(TypeError, match="column 'k': type struct"):
        row_digest(pa.table({"k": [{"x": 1}]}))
    with pytest.raises(ValueError, match="not a rows256-add/1 digest"):
        RowsDigest.parse("sha256:00")
