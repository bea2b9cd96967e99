"""The job reads what the stages wrote, decodes the clips itself, and gives the same file every time."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.film_frames import Track
from curation.page import PageConfig
from curation.schema import CAPTION, MOTION, PROBE, SELECT, Reason, status_not_ok, status_ok, to_table
from curation.video_files import probe_video
from jobs.context import InputRef, JobContext
from jobs.curation_page import FILE, run
from jobs.files import files_digest
from jobs.runtime import RuntimeConfig
from lumina.system_prompts import PROMPT_START, SystemPrompt, write_system_prompts
from lumina.video import write_h264

TRACK = str(Track(0, "pts", 1 / 8))
CLIP: dict[str, Any] = {
    "media": "video", "source": "web", "caption": "A grey clip.", "width": 64, "height": 48, "fps": 8.0,
    "duration_s": 1.25, "track": TRACK, "codec": "h264", "pix_fmt": "yuv420p",
    "num_bytes": 900, "motion_score": 0.25, "keep": True, "split": "train", **status_ok(),
}  # fmt: skip


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for name in ("one", "two"):
        frames = np.stack([np.full((48, 64, 3), 20 * t, np.uint8) for t in range(10)])
        write_h264(folder / f"{name}.mp4", frames, fps=8)
    return folder


def context(root: Path, media: Path, attempt: str) -> JobContext:
    """Stages with two clips that are there, one that has gone, and one that never was."""
    never = dict.fromkeys(("width", "height", "fps", "duration_s", "track", "codec"))
    missing = status_not_ok("ingest", "quarantined", Reason.MISSING_FILE, "never.mp4: no such file")  # type: ignore[arg-type]
    rows = [CLIP | {"clip_id": name, "uri": f"{name}.mp4"} for name in ("one", "two", "gone")]
    rows.append(CLIP | never | missing | {"clip_id": "never", "uri": "never.mp4", "keep": False, "motion_score": None})
    scores = [
        {"clip_id": row["clip_id"], "sample_times_s": [0.0, 0.5], "input_hw": [64, 64], "estimator": "dis"}
        for row in rows[:3]
    ]
    tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]] = {
        "clips": (rows, PROBE), "select": (rows, SELECT), "motion": ([*scores, {"clip_id": "never"}], MOTION)
    }  # fmt: skip
    for name, (content, schema) in tables.items():
        (root / name / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(content, schema), root / name / "data" / "rows.parquet")
    (root / "tag").mkdir(exist_ok=True)
    write_system_prompts(
        root / "tag" / "system_prompts.json", [SystemPrompt("web", f"You know the web.{PROMPT_START}")]
    )
    out = root / attempt
    out.mkdir()
    return JobContext(
        stage="curation_page",
        fingerprint="f" * 64,
        operator="",
        config=PageConfig(),
        runtime=RuntimeConfig(),
        inputs={key: InputRef(key, root / key, f"sha256:{key}") for key in (*tables, "tag")},
        weights={},
        media_root=str(media),
        out=out,
        work=out,
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
    )


def test_the_page_is_written_and_its_digest_is_that_of_a_rerun(tmp_path: Path, media: Path) -> None:
    first = context(tmp_path, media, "first")
    result = run(first)
    html = (first.out / FILE).read_text(encoding="utf-8")
    assert (result.kind, result.artifacts, result.digest) == ("files", (FILE,), files_digest(first.out))
    assert result.counts == {"clips": 4, "pictured": 2}
    assert result.metrics == {"undecodable": 1.0, "bytes": float((first.out / FILE).stat().st_size)}
    # Three frames of each, on the contact sheet and among the quantiles of motion.
    assert html.count("data:image/jpeg") == 12
    for text in (
        "You know the web.",
        "A grey clip.",
        "never.mp4: no such file",
        "gone.mp4",
        "sha256:select",
    ):
        assert text in html
    assert str(tmp_path) not in html
    assert run(context(tmp_path, media, "second")).digest == result.digest
    (media / "two.mp4").unlink()
    assert run(context(tmp_path, media, "third")).digest != result.digest


def test_a_clip_s_own_caption_and_the_model_s_stand_side_by_side(tmp_path: Path, media: Path) -> None:
    ctx = context(tmp_path, media, "first")
    captions = [
        {"clip_id": name, "caption": "A clip as its uploader sees it.", "caption_new": new, **status_ok()}
        for name, new in (("one", "A grey clip."), ("two", "<b>Grey</b>, by a model."), ("gone", None), ("never", None))
    ]
    (tmp_path / "caption" / "data").mkdir(parents=True)
    pq.write_table(to_table(captions, CAPTION), tmp_path / "caption" / "data" / "rows.parquet")
    run(replace(ctx, inputs={**ctx.inputs, "caption": InputRef("caption", tmp_path / "caption", "sha256:c")}))
    html = (ctx.out / FILE).read_text(encoding="utf-8")
    assert "The clip&#39;s own: A clip as its uploader sees it." in html
    assert "The model&#39;s: &lt;b&gt;Grey&lt;/b&gt;, by a model." in html
    assert "A grey clip." in html
    assert "The model&#39;s: A grey clip." not in html  # it trains


def test_real_clips(tmp_path: Path, real_clips: Path) -> None:
    """AV1, a rotated clip, and Matroska: what the shared folder holds."""
    ctx = context(tmp_path, real_clips, "out")
    names = ("av1.mkv", "rotated_90.mov", "hiker_tiny.mp4")
    rows = [CLIP | asdict(probe_video(real_clips / name)) | {"clip_id": name, "uri": name} for name in names]
    for stage, schema in (("clips", PROBE), ("select", SELECT)):
        pq.write_table(to_table(rows, schema), tmp_path / stage / "data" / "rows.parquet")
    result = run(ctx)
    assert result.counts == {"clips": 3, "pictured": 3}
    assert result.metrics["undecodable"] == 0
