from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curation.av_align import AV_ALIGN_OPERATOR, AVAlignConfig
from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.operator import Env, apply
from curation.rules import score_columns
from curation.schema import INGEST, status_ok, to_table
from curation.short_side import to_short_side
from lumina.audio_tracks import AudioTrack
from lumina.randomness import generator
from lumina.shapes import render, sample_sound_scene, waveform
from lumina.video import write_h264
from lumina.video_to_audio.av_align import align
from lumina.video_to_audio.motion_peaks import flow_trajectory, peak_times
from lumina.video_to_audio.onsets import onset_times

FPS, SECONDS = 25, 3


def _scored(root: Path, names: list[str], config: AVAlignConfig) -> list[dict[str, Any]]:
    env = Env(str(root))
    rows = [
        {"uri": name, "media": "image" if name.endswith("png") else "video", "clip_id": name, "extra": "{}"}
        | {"source": "a", "caption": "b", "sha256": name, "num_bytes": 1} | status_ok()
        for name in names
    ]  # fmt: skip
    assert PROBE_OPERATOR.map is not None
    assert AV_ALIGN_OPERATOR.map is not None
    probed = apply(PROBE_OPERATOR, PROBE_OPERATOR.map(ProbeConfig(), env), to_table(rows, INGEST))
    return apply(AV_ALIGN_OPERATOR, AV_ALIGN_OPERATOR.map(config, env), probed).to_pylist()


def test_sound_that_fits_is_told_from_sound_that_does_not(tmp_path: Path) -> None:
    scene, other = (sample_sound_scene(generator(seed, "test/align"), motion="hop") for seed in (2, 5))
    frames = render(scene, num_frames=FPS * SECONDS, height=96, width=96, fps=FPS)
    own, wrong = (waveform(one.events(SECONDS), SECONDS) for one in (scene, other))
    write_h264(tmp_path / "own.mp4", frames, FPS, sound=AudioTrack(own, codec="alac"))
    write_h264(tmp_path / "wrong.mp4", frames, FPS, sound=AudioTrack(wrong, codec="alac"))
    write_h264(tmp_path / "none.mp4", frames, FPS)
    write_h264(tmp_path / "two.mp4", frames[:2], FPS, sound=AudioTrack(own[:1280]))
    write_h264(tmp_path / "still.mp4", frames[:1].repeat(25, 0), FPS, sound=AudioTrack(np.zeros(16000, np.float32)))
    names = ["own.mp4", "wrong.mp4", "none.mp4", "two.mp4", "still.mp4"]
    own_row, wrong_row, none, two, still = _scored(tmp_path, names, AVAlignConfig(short_side=96))
    assert own_row["status"] == wrong_row["status"] == "ok"
    assert own_row["av_align"] > 0.6
    assert own_row["av_align_excess"] == own_row["av_align"] - own_row["av_align_chance"] > 0.4
    assert wrong_row["av_align"] < 0.4
    assert wrong_row["av_align_excess"] < 0.3
    assert own_row["peak_times_s"] == wrong_row["peak_times_s"]
    events = [event.time_s for event in scene.events(SECONDS)]
    assert own_row["audio_onsets"] >= len(events)
    assert all(min(abs(onset - event) for onset in own_row["onset_times_s"]) < 0.05 for event in events)
    # Without files and processes between, it is the same but for H.264's loss.
    onsets = onset_times(torch.from_numpy(own), 16000)
    direct = align(onsets, peak_times(flow_trajectory(frames), FPS), FPS, SECONDS)
    assert own_row["av_align"] == pytest.approx(direct.score, abs=0.2)
    assert (none["status"], none["reason"], none["av_align"]) == ("filtered", "no_audio_stream", None)
    assert (two["status"], two["reason"]) == ("filtered", "too_few_frames")
    assert (still["status"], still["av_align"], still["motion_peaks"]) == ("ok", None, 0)


def test_frames_are_shrunk_by_their_shorter_side() -> None:
    frames = np.random.Generator(np.random.Philox(2)).integers(0, 255, (2, 40, 100, 3), dtype=np.uint8)
    assert to_short_side(frames, (20, 20)).shape == (2, 20, 50, 3)
    assert to_short_side(frames.transpose(0, 2, 1, 3), (20, 20)).shape == (2, 50, 20, 3)
    assert to_short_side(frames, (40, 40)) is frames


def test_rules_of_selection_may_name_the_scores() -> None:
    assert {"av_align", "av_align_excess", "av_align_v2023", "motion_peaks"} <= set(
        score_columns(AV_ALIGN_OPERATOR.schema)
    )
