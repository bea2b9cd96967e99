from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from curation.manifest_formats import IngestConfig
from curation.operator import Input
from jobs.context import JobContext, JobResult
from jobs.ingest import LEFT_OUT_FILE, UNREFERENCED_FILE, run
from jobs.runtime import RuntimeConfig


def _run(root: Path, manifest: Path) -> tuple[JobResult, list[dict[str, Any]]]:
    out, work = root / "out", root / "work"
    out.mkdir(parents=True)
    work.mkdir()
    context = JobContext(
        stage="ingest",
        fingerprint="",
        operator="curation.manifests:INGEST_OPERATOR",
        config=IngestConfig(),
        runtime=RuntimeConfig(),
        inputs={},
        weights={},
        media_root=str(manifest if manifest.is_dir() else manifest.parent),
        out=out,
        work=work,
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
        files={"manifest": manifest},
    )
    return run(context), Input(out).rows().to_pylist()


@pytest.mark.ray
def test_members_that_no_row_refers_to_are_reported(tmp_path: Path, ray_cluster: None) -> None:
    manifest = tmp_path / "OpenVid-1M.csv"
    manifest.write_text("video,caption,aesthetic score,motion score\na.mp4,one,5,1\ngone.mp4,two,5,1\n")
    with zipfile.ZipFile(tmp_path / "OpenVid_part0.zip", "w") as archive:
        for name in ("a", "b", "c"):
            archive.writestr(f"{name}.mp4", name)
    result, rows = _run(tmp_path / "one", manifest)
    assert result.counts == {"in": 2, "ok": 1, "quarantined/missing_file": 1}
    assert {row["uri"] for row in rows} == {"zip://a.mp4::OpenVid_part0.zip", "gone.mp4"}
    assert result.metrics["unreferenced"] == 2
    assert result.artifacts == (UNREFERENCED_FILE,)
    assert json.loads((tmp_path / "one" / "out" / UNREFERENCED_FILE).read_text()) == {
        "count": 2,
        "first": ["zip://b.mp4::OpenVid_part0.zip", "zip://c.mp4::OpenVid_part0.zip"],
    }
    manifest.write_text("video,caption\nzip://a.mp4::OpenVid_part0.zip,one\n")
    result, rows = _run(tmp_path / "two", manifest)
    assert (result.metrics, result.artifacts, len(rows)) == ({}, (), 1)


@pytest.mark.ray
def test_files_of_a_folder_that_are_no_clips_are_told(
    tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "clips"
    (folder / ".trash").mkdir(parents=True)
    for name in ("a.mp4", "b.wmv", "c.flv", "c.txt", "d.json", ".trash/e.mp4"):
        (folder / name).write_text(name)
    result, rows = _run(tmp_path / "one", folder)
    assert {row["uri"] for row in rows} == {"a.mp4", "b.wmv", "c.flv"}
    assert (result.metrics, result.artifacts) == ({"left_out": 2.0}, (LEFT_OUT_FILE,))
    assert json.loads((tmp_path / "one" / "out" / LEFT_OUT_FILE).read_text()) == {
        "count": 2,
        "kinds": {".json": {"count": 1, "first": ["d.json"]}, "hidden": {"count": 1, "first": [".trash/e.mp4"]}},
    }
    assert f"ingest: of the files below {folder} these are no clips: 1 .json (d.json); 1 hidden" in caplog.text
