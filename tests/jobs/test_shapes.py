"""The demo's raw data: as many files as asked for, true rows, and the same bytes every time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from curation.audio import read_audio
from curation.film_frames import Track
from curation.schema import RowError
from curation.video_files import probe_video
from jobs.context import JobContext, JobResult
from jobs.files import files_digest
from jobs.runtime import RuntimeConfig
from jobs.shapes import RenderShapesConfig, RenderSoundConfig, run
from lumina.shapes import PITCHES_HZ, measure
from lumina.video import read_frames

SMALL = RenderShapesConfig(clips={"synthetic": 2, "web": 1}, images={"handheld": 1, "web": 0}, side=64, fps=8)


def _render(out: Path, config: RenderShapesConfig) -> JobResult:
    out.mkdir()
    told: list[int] = []
    ctx = JobContext(
        stage="render_shapes",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=RuntimeConfig(),
        inputs={},
        weights={},
        media_root="",
        out=out,
        work=out,
        progress=lambda done, total, unit: told.append(done),
        log_metrics=lambda metrics, step: None,
    )
    result = run(ctx)
    assert told[-1] == result.counts["in"]
    return result


@pytest.mark.ray
def test_files_rows_and_digest(ray_cluster: None, tmp_path: Path) -> None:
    result = _render(tmp_path / "a", SMALL)
    assert result.counts == {"in": 4, "ok": 4}
    with (tmp_path / "a" / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["video"] for row in rows) == [
        "images/handheld-00000.png", "synthetic/00000.mp4", "synthetic/00001.mp4", "web/00000.mp4"
    ]  # fmt: skip
    assert len({path for path in (tmp_path / "a").rglob("*") if path.is_file()}) == 5
    for row in rows:
        if row["source"] == "synthetic":
            frames = read_frames(tmp_path / "a" / row["video"])
            assert frames.shape == (18, 64, 64, 3)
            truth = {(fact["color"], fact["kind"]) for fact in json.loads(row["scene"])}
            assert truth == {(shape.color, shape.kind) for shape in measure(frames, 8).shapes}
            assert all(f"{color} {kind}" in row["caption"] for color, kind in truth)
    again = _render(tmp_path / "b", SMALL)
    assert again.digest == result.digest == files_digest(tmp_path / "b")
    # More clips leave the first ones as they were; another seed changes them.
    more = SMALL.model_copy(update={"clips": {"synthetic": 3}, "images": {}})
    _render(tmp_path / "c", more)
    first = "synthetic/00000.mp4"
    assert (tmp_path / "c" / first).read_bytes() == (tmp_path / "a" / first).read_bytes()
    _render(tmp_path / "d", more.model_copy(update={"seed": 21, "clips": {"synthetic": 1}}))
    assert (tmp_path / "d" / first).read_bytes() != (tmp_path / "a" / first).read_bytes()
    # Strong flaws are those of the other sources.
    _render(tmp_path / "e", SMALL.model_copy(update={"flaws": "strong"}))
    same = {
        row["video"]: (tmp_path / "e" / row["video"]).read_bytes() == (tmp_path / "a" / row["video"]).read_bytes()
        for row in rows
    }
    assert {name for name, kept in same.items() if kept} == {"synthetic/00000.mp4", "synthetic/00001.mp4"}


@pytest.mark.ray
def test_clips_with_sound_are_heard_when_their_rows_say(ray_cluster: None, tmp_path: Path) -> None:
    sound = RenderSoundConfig(duration_s=3, codec="alac")
    config = SMALL.model_copy(update={"sound": sound, "clips": {"synthetic": 4, "web": 1}})
    result = _render(tmp_path / "a", config)
    with (tmp_path / "a" / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    heard = 0
    for row in rows:
        path = tmp_path / "a" / row["video"]
        if path.suffix != ".mp4":
            continue
        probe = probe_video(path)
        assert (probe.duration_s, probe.frames_shown) == (3.0, 24)
        found = read_audio(path, Track.parse(probe.track or ""), 0, 3.0)
        assert (len(found.waveform), found.cover) == (48000, 1)
        first = next((event for event in json.loads(row["scene"])["events"]), None)
        begins = np.flatnonzero(np.abs(found.waveform) > 1e-3)
        assert len(begins) == 0 if first is None else begins[0] / 16000 == pytest.approx(first["time_s"], abs=2e-3)
        heard += first is not None
        if first is not None and first["seen"]:
            assert first["pitch_hz"] == PITCHES_HZ[first["color"]]
    assert heard >= 3
    assert _render(tmp_path / "b", config).digest == result.digest
    # The pictures and the silent clips are those of a run without sound.
    silent = _render(tmp_path / "c", config.model_copy(update={"sound": None}))
    image = "images/handheld-00000.png"
    assert (tmp_path / "c" / image).read_bytes() == (tmp_path / "a" / image).read_bytes()
    assert silent.digest != result.digest
    path = tmp_path / "c" / "web/00000.mp4"
    track = Track.parse(probe_video(path).track or "")
    with pytest.raises(RowError, match="the file has no audio track"):
        read_audio(path, track, 0, 1.0)


def test_unknown_sources_and_negative_numbers_are_refused() -> None:
    with pytest.raises(ValidationError, match="unknown source 'wbe'; the Shapes world has synthetic, handheld, web"):
        RenderShapesConfig(clips={"wbe": 3})
    with pytest.raises(ValidationError, match="must not be negative, got -1"):
        RenderShapesConfig(images={"web": -1})
