"""`lumina quarantine`: each clip once, at the stage that set it aside."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curation.schema import CAPTION, LATENTS, PROBE, SELECT, TEXT, status_ok, to_table
from curation.selection import SelectConfig
from pipelines import cli
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.errors import PipelineError, StoreError
from pipelines.reports.quarantine import SetAside, clips_set_aside, read_quarantine, write_csv
from pipelines.reports.recorded_rows import id_ranges, recorded_rows
from tests.pipelines.curated import Curated, make_clips

POLICY = SelectConfig(min_fps=8, sets={"large": {"min_area": 5000}}, encoded={"small": ("video",), "large": ("video",)})


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    root = tmp_path_factory.mktemp("quarantine")
    made = Curated(root / "store", make_clips(root / "media, and more"))
    made.run("r1", POLICY)
    return made


def _record(curated: Curated, stages: dict[str, StageEntry]) -> RunRecord:
    record = curated.store.get_run("r1")
    return replace(record, stages={**record.stages, **stages})


def _counts(curated: Curated, filtered_too: bool = False, **stages: StageEntry) -> dict[tuple[str, str, str], int]:
    found = read_quarantine(curated.store, _record(curated, stages), filtered_too)
    counts = {(one.stage, one.status, one.reason): one.clips for one in found.counts}
    assert sum(counts.values()) == found.set_aside == len(_clips(curated, filtered_too, **stages))
    return counts


def _clips(curated: Curated, filtered_too: bool = False, **stages: StageEntry) -> list[SetAside]:
    return list(clips_set_aside(curated.store, _record(curated, stages), filtered_too))


def _sources(curated: Curated, filtered_too: bool = False, **stages: StageEntry) -> list[tuple[str, int, int]]:
    found = read_quarantine(curated.store, _record(curated, stages), filtered_too)
    return [(one.source, one.set_aside, one.clips) for one in found.sources]


def test_each_clip_is_counted_once_where_it_left(curated: Curated) -> None:
    assert _counts(curated) == {
        ("ingest", "quarantined", "missing_file"): 1,
        ("ingest", "quarantined", "unsupported_uri"): 1,
        ("probe", "quarantined", "decode_error"): 1,
    }
    assert _counts(curated, filtered_too=True) == {
        ("ingest", "filtered", "duplicate_content"): 1,
        ("ingest", "quarantined", "missing_file"): 1,
        ("ingest", "quarantined", "unsupported_uri"): 1,
        ("probe", "quarantined", "decode_error"): 1,
        ("motion", "filtered", "too_few_frames"): 1,
        ("select", "filtered", "min_fps"): 2,
    }
    found = _clips(curated, filtered_too=True)
    assert len({clip.clip_id for clip in found}) == len(found)
    # Clip 2 is too small for one set; the other holds it, so it is in use.
    held = {"clip1.mp4", "clip2.mp4", "clip3.mp4"}
    rows = [row["uri"] for row in csv.DictReader((curated.media / "clips.csv").open(), fieldnames=["uri"])][1:]
    assert read_quarantine(curated.store, curated.store.get_run("r1")).rows == len(rows)
    assert Counter(clip.uri for clip in found) + Counter(held) == Counter(rows)


def test_sources_are_ranked_by_the_share_they_lost(curated: Curated) -> None:
    assert _sources(curated) == [("web", 2, 5), ("phone", 1, 5)]
    assert _sources(curated, filtered_too=True) == [("phone", 4, 5), ("web", 3, 5)]


def _output(curated: Curated, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> StageEntry:
    out = curated.store.root / "stages" / name / "made"
    (out / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(rows, schema), out / "data" / "part.parquet")
    return StageEntry(path=str(out.relative_to(curated.store.root)), fingerprint=None, digest=None)


def test_a_clip_of_several_sets_counts_where_one_quarantined_it(curated: Curated) -> None:
    select = curated.store.get_run("r1").stages["select"]
    rows = pq.read_table(curated.store.root / select.path / "data").to_pylist()
    kept = sorted(row["clip_id"] for row in rows if row["keep"])

    def aside(status: str, reason: str) -> dict[str, str]:
        return {"status": status, "reason": reason, "reason_stage": "encode_latents", "detail": reason}

    def made(*statuses: dict[str, str]) -> list[dict[str, Any]]:
        return [{"clip_id": name} | status for name, status in zip(kept, statuses, strict=True)]

    ok, other = {"status": "ok"}, aside("filtered", "other_media")
    small = made(ok, other, aside("filtered", "min_area"))
    large = made(aside("quarantined", "not_finite"), aside("filtered", "too_few_frames"), ok)
    stages = {
        "encode_latents@small": _output(curated, "encode_latents@small", small, LATENTS),
        "encode_latents@large": _output(curated, "encode_latents@large", large, LATENTS),
    }
    found = {clip.clip_id: clip for clip in _clips(curated, filtered_too=True, **stages)}
    assert (found[kept[0]].reason_stage, found[kept[0]].reason) == ("encode_latents@large", "not_finite")
    assert (found[kept[1]].reason_stage, found[kept[1]].reason) == ("encode_latents@large", "too_few_frames")
    assert kept[2] not in found
    assert _counts(curated, **stages)["encode_latents@large", "quarantined", "not_finite"] == 1


def test_a_copy_counts_where_its_first_was_found_broken(curated: Curated) -> None:
    stages = curated.store.get_run("r1").stages
    rows = pq.read_table(curated.store.root / stages["probe"].path / "data").to_pylist()
    broken = {"status": "quarantined", "reason": "decode_error", "reason_stage": "probe", "detail": "x"}
    rows = [row | broken if row["reason"] == "duplicate_content" else row for row in rows]
    made = _output(curated, "probe", rows, PROBE)
    for filtered_too in (False, True):
        counts = _counts(curated, filtered_too, probe=made)
        assert ("ingest", "filtered", "duplicate_content") not in counts
        assert counts["probe", "quarantined", "decode_error"] == 2


@pytest.mark.parametrize("name", ["brightness", "scores"])  # of its operator
def test_a_scoring_stage_sets_clips_aside_where_selection_reads_it(curated: Curated, name: str) -> None:
    stages = curated.store.get_run("r1").stages
    rows = pq.read_table(curated.store.root / stages["probe"].path / "data").to_pylist()
    broken = {"status": "quarantined", "reason": "decode_error", "reason_stage": name, "detail": "x"}
    sound = next(row["clip_id"] for row in rows if row["status"] == "ok")
    made = _output(curated, "score@light", [row | broken if row["clip_id"] == sound else row for row in rows], PROBE)
    assert _counts(curated, **{"score@light": made}) == _counts(curated)
    select = replace(stages["select"], inputs={"score@light": "score@light"})
    found = _clips(curated, **{"score@light": made, "select": select})
    assert [clip.clip_id for clip in found if clip.reason_stage == "score@light"] == [sound]


@pytest.mark.parametrize("name", ["frame_hashes", "embeddings"])
def test_a_clip_that_was_not_compared_counts_where_near_duplicates_are_looked_for(curated: Curated, name: str) -> None:
    stages = curated.store.get_run("r1").stages
    rows = pq.read_table(curated.store.root / stages["probe"].path / "data").to_pylist()
    broken = {"status": "quarantined", "reason": "decode_error", "reason_stage": name, "detail": "x"}
    sound = next(row["clip_id"] for row in rows if row["status"] == "ok")
    made = _output(curated, name, [row | broken if row["clip_id"] == sound else row for row in rows], PROBE)
    assert _counts(curated, **{name: made}) == _counts(curated)
    select = replace(stages["select"], inputs={"duplicates": "duplicates"})
    found = _clips(curated, **{name: made, "select": select})
    assert [clip.clip_id for clip in found if clip.reason_stage == name] == [sound]


def test_a_clip_without_a_caption_counts_where_no_other_trains(curated: Curated) -> None:
    stages = curated.store.get_run("r1").stages
    rows = pq.read_table(curated.store.root / stages["select"].path / "data").to_pylist()
    refused = {"status": "quarantined", "reason": "caption_refused", "reason_stage": "caption", "detail": "I cannot"}
    sound = next(row["clip_id"] for row in rows if row["status"] == "ok")
    captions = [{"clip_id": row["clip_id"], **(refused if row["clip_id"] == sound else status_ok())} for row in rows]
    made, reads = _output(curated, "caption", captions, CAPTION), {"caption": "caption"}
    assert _counts(curated, caption=made, select=replace(stages["select"], inputs=reads)) == _counts(curated)
    out = _output(curated, "select", [row | refused if row["clip_id"] == sound else row for row in rows], SELECT)
    [found] = [one for one in _clips(curated, caption=made, select=replace(out, inputs=reads)) if one.clip_id == sound]
    assert (found.reason_stage, found.reason, found.detail) == ("caption", "caption_refused", "I cannot")


def test_a_text_that_was_not_encoded_is_no_clip(curated: Curated) -> None:
    broken = {"status": "quarantined", "reason": "internal_error", "reason_stage": "encode_text", "detail": "x"}
    stage = _output(curated, "encode_text", [{"text_id": "t", "prompt": "a red circle"} | broken], TEXT)
    [found] = [clip for clip in _clips(curated, encode_text=stage) if clip.reason_stage == "encode_text"]
    assert (found.caption, found.clip_id, found.uri) == ("a red circle", "", "")
    assert _counts(curated, encode_text=stage)["encode_text", "quarantined", "internal_error"] == 1
    assert _sources(curated, encode_text=stage) == _sources(curated)


def test_ranges_of_ids_give_what_one_range_gives(curated: Curated, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_quarantine(curated.store, curated.store.get_run("r1"), True), _clips(curated, True)
    monkeypatch.setattr("jobs.shards.SHARD_ROWS", 1)
    monkeypatch.setattr("pipelines.reports.recorded_rows._SHARDS", 1)
    assert len(id_ranges(recorded_rows(curated.store, curated.store.get_run("r1"), "probe"))) == 16
    assert (read_quarantine(curated.store, curated.store.get_run("r1"), True), _clips(curated, True)) == whole


def test_the_csv_has_a_row_per_clip(curated: Curated, tmp_path: Path) -> None:
    found = _clips(curated)
    hard = replace(found[0], detail='a "quote", a comma\nand a line', caption="Kaffee, schwarz ☕")
    write_csv([hard, *found[1:]], tmp_path / "new" / "aside.csv")
    with (tmp_path / "new" / "aside.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == vars(hard)
    assert sorted(row["uri"] for row in rows) == ["ftp://b/far.mp4", "gone.mp4", "notes.mp4"]


def test_the_command_shows_counts_sources_and_how_to_look(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["quarantine", *arguments, "--store", str(curated.store.root)])
        assert done.exit_code == 0, done.output
        return done.output

    shown = call()
    for text in ("3 of 10 clips were quarantined", "decode_error", "40.0%", "no such file in the media root"):
        assert text in shown
    path = curated.media / "notes.mp4"
    assert f"lumina probe '{path}'" in shown  # whole, on one line
    assert shown.count("lumina probe") == 1  # nothing is to be seen of a file that is missing or far away
    assert "7 of 10 clips were set aside" in call("r1", "--all")
    assert f"3 rows in {tmp_path / 'aside.csv'}" in call("--csv", str(tmp_path / "aside.csv"))
    content = json.loads(call("--all", "--json"))
    assert content["set_aside"] == sum(one["clips"] for one in content["counts"]) == 7
    assert content["counts"][3]["look"] == f"lumina probe '{path}'"
    assert content["counts"][1]["look"] is None


def test_nothing_to_show_and_nothing_to_read(curated: Curated) -> None:
    record = curated.store.get_run("r1")
    with pytest.raises(PipelineError, match="has no clips yet"):
        read_quarantine(curated.store, replace(record, run="r0", stages={"train@1": record.stages["probe"]}))
    with pytest.raises(StoreError, match="r1: its clips cannot be read"):
        _counts(curated, motion=StageEntry(path="stages/motion/gone/a-1", fingerprint=None, digest=None))


def test_clips_are_put_back_for_a_reason(tmp_path: Path) -> None:
    curated = Curated(tmp_path / "store", make_clips(tmp_path / "media"))
    curated.run("r1", SelectConfig())

    def call(reason: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["quarantine", "--retry", reason, "--store", str(curated.store.root)])
        return done.exit_code, " ".join(done.output.split())

    assert call("decode_eror") == (1, "error: no reason 'decode_eror'; did you mean 'decode_error'?")
    assert "its reasons are decode_error, missing_file, unsupported_uri" in call("decode_timeout")[1]
    probe = curated.store.get_run("r1").stages["probe"].fingerprint
    assert curated.store.lookup("probe", probe) is not None
    assert call("decode_error") == (0, "probe: 1 clips are put back; the next `lumina run` tries them again")
    assert curated.store.lookup("probe", probe) is None
    assert curated.store.has_work("probe", probe)
    assert curated.store.holder("probe", probe) is None
