"""Tables of a run's summary: what a stage made, in one line."""

from __future__ import annotations

from dataclasses import replace

from pipelines.engine.store.manifest import Manifest
from pipelines.reports.tables import output_text


def test_what_a_stage_made_counts_rows_those_taken_over_and_prompts_that_were_cut() -> None:
    counts = {"in": 1012, "ok": 1009, "filtered/min_fps": 1, "quarantined/missing": 2}
    manifest = Manifest("encode_text", "f" * 64, "a-1", "rows", "", {}, (), counts=counts)
    rows = "1012 rows: 1009 ok, 2 quarantined, 1 filtered"
    assert output_text(manifest) == rows
    assert output_text(replace(manifest, metrics={"prompts_cut": 0.0})) == rows
    assert output_text(replace(manifest, metrics={"prompts_cut": 1.0})) == f"{rows}; 1 prompt cut"
    alike = replace(manifest, metrics={"clusters": 2.0, "clusters_across_sources": 1.0})
    assert output_text(alike) == f"{rows}; 2 clusters of near-duplicates, 1 across sources"
    both = replace(manifest, metrics={"prompts_cut": 1004.0}, taken={"0" * 64: 8})
    assert output_text(both) == f"{rows}; 8 taken from earlier outputs; 1,004 prompts cut"
