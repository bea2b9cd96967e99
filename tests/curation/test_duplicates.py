"""Copies of broken and of sound files, through ingest, split and probe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.duplicates import copies_aside, reasons_of_firsts, with_copies
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.operator import Env, Input, Operator, apply, map_rows
from curation.schema import INGEST, PROBE, Reason, RowError, Status, counts, status_not_ok, status_ok, to_table
from curation.shots import SPLIT_OPERATOR, ShotsConfig
from lumina.video import write_h264
from tests.curation.in_memory import computed


def _stage(operator: Operator, config: Any, folder: Path, inputs: Mapping[str, Path], out: Path) -> pa.Table:
    env = Env(str(folder))
    table = computed(operator, {name: Input(path) for name, path in inputs.items()}, config, env)
    (out / "data").mkdir(parents=True)
    pq.write_table(table, out / "data" / "part.parquet")
    return table


@pytest.mark.parametrize("split", [False, True])
def test_every_copy_of_a_broken_file_is_quarantined(split: bool, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_h264(folder / "a.mp4", np.zeros((8, 32, 32, 3), np.uint8), 8)
    good = (folder / "a.mp4").read_bytes()
    for name, content in {
        "a2.mp4": good, "a3.mov": good, "cut1.mp4": good[:400], "cut2.mp4": good[:400], "cut3.mkv": good[:400],
        "png1.png": b"\x89PNG\r\n\x1a\n", "png2.png": b"\x89PNG\r\n\x1a\n", "zero1.mp4": b"", "zero2.avi": b"",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    ingested = _stage(INGEST_OPERATOR, IngestConfig(), folder, {"manifest": folder}, tmp_path / "ingest")
    before = "ingest"
    if split:
        before = "split"
        _stage(SPLIT_OPERATOR, ShotsConfig(), folder, {"clips": tmp_path / "ingest"}, tmp_path / "split")
    probed = _stage(PROBE_OPERATOR, ProbeConfig(), folder, {"clips": tmp_path / before}, tmp_path / "probe")
    found = {row["uri"]: row for row in probed.to_pylist()}
    broken = "split" if split else "probe"
    assert {name: (row["status"], row["reason"], row["reason_stage"]) for name, row in found.items()} == {
        "a.mp4": ("ok", None, None),
        **dict.fromkeys(("a2.mp4", "a3.mov"), ("filtered", "duplicate_content", "ingest")),
        **dict.fromkeys(("cut1.mp4", "cut2.mp4", "cut3.mkv"), ("quarantined", "decode_error", broken)),
        **dict.fromkeys(("png1.png", "png2.png"), ("quarantined", "decode_error", "probe")),
        **dict.fromkeys(("zero1.mp4", "zero2.avi"), ("quarantined", "unreadable_file", "ingest")),
    }
    assert counts(probed)["in"] == len(found) == len(ingested)
    # A sound copy comes out as it went in.
    was = next(row for row in ingested.to_pylist() if row["uri"] == "a2.mp4")
    assert {name: found["a2.mp4"][name] for name in was} == was
    assert found["a2.mp4"]["decoder"] is None


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, 1.0])), max_size=12)


@given(ROWS, st.sets(st.sampled_from("abc")))
def test_no_copy_hides_behind_what_is_broken(contents: list[tuple[str, float | None]], broken: set[str]) -> None:
    seen: set[Any] = set()
    rows = []
    for at, (sha, end) in enumerate(contents):
        span = (None if end is None else 0.0, end)
        row = {"clip_id": str(at), "sha256": sha, "span_start_s": span[0], "span_end_s": span[1], "uri": f"{at}.mp4"}
        copy = status_not_ok("ingest", Status.FILTERED, Reason.DUPLICATE_CONTENT, "same content")
        rows.append(row | (copy if (sha, end) in seen else status_ok()))
        seen.add((sha, end))

    def look(row: dict[str, Any]) -> dict[str, Any]:
        if row["sha256"] in broken:
            raise RowError(Reason.DECODE_ERROR, "broken")
        return {"width": 1}

    ingested = to_table(rows, INGEST)
    well = with_copies(ingested)
    assert well["status"].to_pylist() == ["ok"] * len(rows)
    looked = map_rows(well, PROBE, "probe", copies_aside(look)).to_pylist()
    passed = apply(
        Operator("split", ShotsConfig, INGEST, (), lambda *_: ingested),
        lambda table: map_rows(table, INGEST, "split", look),
        ingested,
    )
    behind = reasons_of_firsts(ingested, passed, "split")
    split = {row["clip_id"]: row | behind.get(row["clip_id"], {}) for row in passed.to_pylist()}
    for found, stage in ((looked, "probe"), ([split[row["clip_id"]] for row in rows], "split")):
        for before, row in zip(rows, found, strict=True):
            if before["sha256"] in broken:
                assert (row["status"], row["reason"], row["reason_stage"]) == ("quarantined", "decode_error", stage)
            else:
                assert {name: row[name] for name in before} == before
