"""Rows of two outputs, matched by key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compare.rows import RowChange, RowsDiff, compare_rows, most_moved
from pipelines.errors import StoreError

OK = {"status": "ok", "reason": None, "reason_stage": None, "detail": None}


def output(path: Path, rows: list[dict[str, Any]], files: int = 1, **types: str) -> Path:
    (path / "data").mkdir(parents=True)
    schema = pa.Table.from_pylist(rows).schema
    for name, kind in types.items():
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.type_for_alias(kind)))
    for number in range(files):
        pq.write_table(pa.Table.from_pylist(rows[number::files], schema), path / "data" / f"part-{number}.parquet")
    return path


def test_order_and_files_do_not_count(tmp_path: Path) -> None:
    rows = [{"clip_id": f"c{index}", "score": index / 7, **OK} for index in range(20)]
    found = compare_rows("s", output(tmp_path / "a", rows), output(tmp_path / "b", rows[::-1], files=3))
    assert (found.rows, found.changed, found.changed_rows, found.changes) == ((20, 20), {}, 0, ())


def test_nothing_is_like_nothing_and_nan_like_nan(tmp_path: Path) -> None:
    old = [
        {"clip_id": "a", "score": None, "pairs": [1.0, math.nan], **OK},
        {"clip_id": "b", "score": math.nan, "pairs": None, **OK},
        {"clip_id": "c", "score": 1.0, "pairs": [2.0], **OK},
    ]
    new = [dict(row) for row in old]
    assert compare_rows("s", output(tmp_path / "a", old), output(tmp_path / "b", new)).changed == {}
    new[0]["score"], new[1]["score"], new[2]["pairs"] = math.nan, None, [2.0, 3.0]
    found = compare_rows("s", tmp_path / "a", output(tmp_path / "c", new))
    assert found.changed == {"score": 2, "pairs": 1}
    assert found.changed_rows == 3


def test_large_values_are_compared_by_hash(tmp_path: Path) -> None:
    def rows(text: bytes, latent: bytes, named: str) -> list[dict[str, Any]]:
        return [{"clip_id": "a", "text_feature_bytes": text, "vae_latent_bytes": latent, "latent_sha256": named, **OK}]

    large = {"text_feature_bytes": "large_binary", "vae_latent_bytes": "large_binary"}
    first = output(tmp_path / "a", rows(b"x", b"l", "1"), **large)
    found = compare_rows("s", first, output(tmp_path / "b", rows(b"y", b"other", "1"), **large))
    # The hash that the table holds stands for the latents, which are not read.
    assert found.changed == {"text_feature_bytes": 1}
    assert compare_rows("s", first, output(tmp_path / "c", rows(b"x", b"l", "2"), **large)).changed == {
        "latent_sha256": 1
    }


def test_another_schema_is_told_and_the_rest_compared(tmp_path: Path) -> None:
    old = output(tmp_path / "a", [{"clip_id": "a", "n": 1, "gone": 1, **OK}], n="int32")
    new = output(tmp_path / "b", [{"clip_id": "a", "n": 1, "came": 1, **OK}], n="int64")
    found = compare_rows("s", old, new)
    assert (found.schema, found.changed) == (("came", "gone", "n"), {})


def test_generated_clips_have_a_source_in_their_key_where_they_need_one(tmp_path: Path) -> None:
    def row(source: str, acc: float) -> dict[str, Any]:
        return {"model": "m", "prompt_id": "p", "sample": 0, "source": source, "acc": acc}

    one = compare_rows("s", output(tmp_path / "a", [row("web", 1.0)]), output(tmp_path / "b", [row("phone", 0.5)]))
    assert one.changes == (RowChange("m p 0", "", {"acc": (1.0, 0.5)}),)
    two = [row("web", 1.0), row("phone", 0.5)]
    assert compare_rows("s", output(tmp_path / "c", two), output(tmp_path / "d", two)).changed == {}
    with pytest.raises(StoreError, match="has 2 rows of model, source, prompt_id, sample m web p 0"):
        compare_rows("s", tmp_path / "a", output(tmp_path / "e", [row("web", 1.0)] * 2))


def test_rows_without_a_key_and_missing_tables_are_errors(tmp_path: Path) -> None:
    nameless = output(tmp_path / "a", [{"x": 1}])
    with pytest.raises(StoreError, match=r"stage s: no key tells the rows of .* apart; known keys: clip_id; text_id"):
        compare_rows("s", nameless, nameless)
    with pytest.raises(StoreError, match=r"stage s: rows in .*none/data cannot be read"):
        compare_rows("s", nameless, tmp_path / "none")


def test_the_rows_that_moved_most_come_first_each_figure_by_its_range() -> None:
    changes = (
        RowChange("a", "", {"sharpness": (100.0, 101.0), "acc": (0.0, 1.0)}),
        RowChange("b", "", {"sharpness": (100.0, 200.0)}),
        RowChange("c", "", {"sharpness": (100.0, 150.0), "acc": (None, 0.5)}),
    )
    found = RowsDiff("s", (3, 3), {}, {}, {}, (), 3, changes, {})
    assert [change.key for change in most_moved(found, 2)] == ["c", "a"]
    assert list(most_moved(found, 2)[1].columns) == ["acc", "sharpness"]


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 2), min_size=1),
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 2), min_size=1),
)
def test_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, a: dict[str, int], b: dict[str, int]
) -> None:
    root = tmp_path_factory.mktemp("rows")
    first, second = (
        output(root / name, [{"clip_id": key, "n": value, **OK} for key, value in of.items()])
        for name, of in (("a", a), ("b", b))
    )
    found = compare_rows("s", first, second)
    assert list(found.only_a) == sorted(a.keys() - b.keys())
    assert list(found.only_b) == sorted(b.keys() - a.keys())
    assert found.changed_rows == sum(a[key] != b[key] for key in a.keys() & b.keys())
