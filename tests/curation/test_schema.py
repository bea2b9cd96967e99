from __future__ import annotations

import pyarrow as pa

from curation.schema import TAG, Reason, Status, conform, counts, short_detail, status_not_ok, status_ok, to_table


def test_counts_add_up() -> None:
    rows = [status_ok()] * 3 + [status_not_ok("probe", Status.QUARANTINED, Reason.DECODE_ERROR, "x")] * 2
    assert counts(to_table(rows, TAG)) == {"in": 5, "ok": 3, "quarantined/decode_error": 2}


def test_details_are_cut_at_whole_characters() -> None:
    assert short_detail("é" * 3000) == "é" * 1024
    assert short_detail("a\udcff.mp4") == "a\\udcff.mp4"


def test_conform_adds_casts_and_drops() -> None:
    table = conform(pa.table({"clip_id": pa.array(["a"], pa.large_string()), "surplus": [1]}), TAG)
    assert table.schema == TAG
    assert table.to_pylist()[0] == {name: "a" if name == "clip_id" else None for name in TAG.names}
