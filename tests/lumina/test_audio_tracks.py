from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lumina.audio_tracks import AudioCodec, AudioTrack
from lumina.video import read_frames, write_h264

FRAMES = np.random.Generator(np.random.Philox(1)).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)


def _wave(count: int) -> NDArray[np.float32]:
    at = np.arange(count) / 16000
    return (0.5 * np.sin(2 * np.pi * 500 * at) * np.exp(-((at - 1) ** 2) / 0.02)).astype(np.float32)


def _decoded(path: Path) -> NDArray[np.float64]:
    """By FFmpeg as it is, which cuts what its edit list says."""
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    wave = np.concatenate([part[0] for part in parts])
    return wave.astype(np.float64) / (2.0 ** (8 * wave.itemsize - 1) if wave.dtype.kind == "i" else 1)


@pytest.mark.parametrize("codec", get_args(AudioCodec))
@pytest.mark.parametrize("count", [32000, 31234, 40000, 1])
def test_sound_begins_with_the_first_frame_and_reads_back(tmp_path: Path, codec: AudioCodec, count: int) -> None:
    wave = _wave(count)
    for name in ("a.mp4", "b.mp4"):
        write_h264(tmp_path / name, FRAMES, 10, sound=AudioTrack(wave, codec=codec))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    found = _decoded(tmp_path / "a.mp4")
    assert len(found) >= count
    if codec == "aac":
        assert np.abs(found[:count] - wave).max() < 0.02
    else:
        assert len(found) == count
        assert np.abs(found - wave).max() <= (0.51 / 2**15 if codec == "flac" else 1.01 / 2**23)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert (container.streams.audio[0].rate, container.streams.audio[0].channels) == (16000, 1)


def test_frames_are_the_same_with_sound(tmp_path: Path) -> None:
    write_h264(tmp_path / "silent.mp4", FRAMES, 10)
    write_h264(tmp_path / "sound.mp4", FRAMES, 10, sound=AudioTrack(_wave(32000)))
    assert np.array_equal(read_frames(tmp_path / "silent.mp4"), read_frames(tmp_path / "sound.mp4"))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros((1, 9), np.float32), "must be float32 [N] with N >= 1, got float32 (1, 9)"),
        (np.zeros(9), "got float64 (9,)"),
        (np.zeros(0, np.float32), "got float32 (0,)"),
        (np.full(9, 1.5, np.float32), "must be in -1..1, but its peak is 1.5"),
        (np.full(9, np.nan, np.float32), "must be in -1..1, but its peak is nan"),
    ],
)
def test_what_is_no_waveform_is_refused(wave: NDArray[np.float32], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AudioTrack(wave)
