from __future__ import annotations

import math
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.operator import Env, Input, Operator, dataset
from curation.rules import Range, Rules, failed_rules, score_columns
from curation.sound import SOUND_OPERATOR, SoundConfig, dbfs, loudness
from lumina.config import Config
from tests.curation.audible import Heard, noise, tear, write
from tests.curation.in_memory import computed


def _stage(root: Path, operator: Operator, config: Config, key: str, source: Path) -> pa.Table:
    table = computed(operator, {key: Input(source)}, config, Env(str(root / "clips")))
    out = root / operator.name / "data"
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out / "part.parquet")
    return table


def _measured(root: Path, config: SoundConfig) -> dict[str, dict[str, object]]:
    """What the stages make of the folder `clips`, by file name."""
    ingested = _stage(root, INGEST_OPERATOR, IngestConfig(), "manifest", root / "clips")
    _stage(root, PROBE_OPERATOR, ProbeConfig(), "clips", root / "ingest")
    rows = _stage(root, SOUND_OPERATOR, config, "clips", root / "probe").to_pylist()
    names = dict(zip(ingested["clip_id"].to_pylist(), ingested["uri"].to_pylist(), strict=True))
    assert sorted(row["clip_id"] for row in rows) == sorted(names)
    return {names[row["clip_id"]]: row for row in rows}


def test_every_kind_of_track_has_its_outcome(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(96000) / 48000)
    half = np.where(np.arange(96000) < 48000, tone, 0)
    write(clips / "tone.mp4", Heard(tone, codec="alac"))
    write(clips / "half.mkv", Heard(half, codec="flac", layout="stereo"))
    write(clips / "late.mkv", Heard(tone, codec="flac", audio_start_s=Fraction(1)))
    write(clips / "none.mp4", Heard())
    write(clips / "silent.mp4", Heard(0 * tone, codec="aac"))
    write(clips / "short.mp4", Heard(tone[:24000], codec="alac"))
    tear(write(clips / "broken.mkv", Heard(noise(4, 96000), codec="flac")))
    (clips / "text.mp4").write_text("no film")
    Image.new("RGB", (64, 64)).save(clips / "still.png")
    # A folder's sounds are no clips; one that is named as a film is no film.
    (clips / "beside.wav").write_bytes(b"RIFF")
    with wave.open(str(clips / "wave.avi"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000))

    rows = _measured(tmp_path, SoundConfig())
    told = {name: (row["status"], row["reason"], row["reason_stage"], row["has_audio"]) for name, row in rows.items()}
    assert told == {
        "tone.mp4": ("ok", None, None, True),
        "half.mkv": ("ok", None, None, True),
        "late.mkv": ("filtered", "short_audio", "sound", True),
        "none.mp4": ("filtered", "no_audio_stream", "sound", False),
        "silent.mp4": ("filtered", "silent", "sound", True),
        "short.mp4": ("filtered", "short_audio", "sound", True),
        "broken.mkv": ("quarantined", "decode_error", "sound", None),
        "text.mp4": ("quarantined", "decode_error", "probe", None),
        "wave.avi": ("quarantined", "decode_error", "probe", None),
        "still.png": ("ok", None, None, False),
    }
    tone_row, half_row = rows["tone.mp4"], rows["half.mkv"]
    assert tone_row["audio_rms_dbfs"] == pytest.approx(20 * math.log10(0.5 / 2**0.5), abs=0.02)
    assert tone_row["audio_peak_dbfs"] == pytest.approx(20 * math.log10(0.5), abs=0.02)
    assert tone_row["audio_silence"] == 0
    assert half_row["audio_silence"] == pytest.approx(0.5, abs=0.02)
    assert half_row["audio_rms_dbfs"] == pytest.approx(20 * math.log10(0.5 / 2), abs=0.05)
    assert (half_row["audio_codec"], half_row["audio_rate"], half_row["audio_channels"]) == ("flac", 48000, 2)
    assert (half_row["audio_layout"], half_row["audio_tracks"], half_row["audio_window_s"]) == ("stereo", 1, 2.0)
    # What is set aside is measured all the same.
    late, silent = rows["late.mkv"], rows["silent.mp4"]
    assert (late["audio_start_s"], late["audio_duration_s"]) == pytest.approx((1, 2))
    assert late["audio_cover"] == pytest.approx(0.5)
    assert late["detail"] == "it fills 50% of 2 s; sound.min_cover is 90%"
    assert (silent["audio_rms_dbfs"], silent["audio_silence"]) == (-120, 1)

    again = _stage(
        tmp_path, SOUND_OPERATOR, SoundConfig(window_s=0.4, min_cover=0), "clips", tmp_path / "probe"
    ).to_pylist()
    at = {row["clip_id"]: row for row in again}
    lenient = {name: at[row["clip_id"]] for name, row in rows.items()}
    assert (lenient["short.mp4"]["status"], lenient["short.mp4"]["audio_window_s"]) == ("ok", 0.4)
    assert (lenient["late.mkv"]["reason"], lenient["late.mkv"]["audio_cover"]) == ("silent", 0)
    report = SOUND_OPERATOR.report(dataset(tmp_path / "sound" / "data"), SoundConfig(), tmp_path)
    assert set(report.metrics) == {"audio_rms_dbfs_p10", "audio_rms_dbfs_p50", "audio_rms_dbfs_p90"}


def test_levels() -> None:
    assert (dbfs(1), dbfs(0), dbfs(1e-9)) == (0, -120, -120)
    assert dbfs(0.5) == pytest.approx(-6.02, abs=0.01)
    assert loudness(np.zeros(0, np.float32), -60)["audio_silence"] == 1
    # A block at the end that is no whole one counts by its own length.
    ends = np.concatenate([np.zeros(3200), np.full(10, 0.5)]).astype(np.float32)
    assert loudness(ends, -60)["audio_silence"] == pytest.approx(10 / 11)


def test_rules_of_selection_may_name_what_is_measured() -> None:
    named = {"audio_rms_dbfs", "audio_silence", "audio_cover", "audio_start_s", "audio_duration_s"}
    assert named <= set(score_columns(SOUND_OPERATOR.schema))
    quiet = Rules(scores={"audio_rms_dbfs": Range(min=-50)})
    row = {"media": "video", "audio_rms_dbfs": -60.0}
    assert [failure.rule for failure in failed_rules(row, quiet)] == ["score:audio_rms_dbfs"]
    assert not failed_rules(row | {"audio_rms_dbfs": -40.0}, quiet)
    assert not failed_rules({"media": "image", "audio_rms_dbfs": None}, quiet)
