"""WAV files: to the bit and back, and what is none."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from lumina.video_to_audio.wav_files import read_wav, write_wav


def test_samples_are_kept(tmp_path: Path) -> None:
    samples = np.array([0, 1, -32768, 32767], np.int16)
    write_wav(tmp_path / "a.wav", samples, 16_000)
    found, rate = read_wav(tmp_path / "a.wav")
    assert rate == 16_000
    np.testing.assert_array_equal(found, samples)
    with pytest.raises(ValueError, match=r"int16 \[n\], got float64 \[4\]"):
        write_wav(tmp_path / "b.wav", samples.astype(float), 16_000)  # type: ignore[arg-type]


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "none.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"none\.wav is no WAV file"):
        read_wav(tmp_path / "none.wav")
    with wave.open(str(tmp_path / "stereo.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
    with pytest.raises(ValueError, match=r"stereo\.wav must be mono of 16 bits, but has 2 channels of 16 bits"):
        read_wav(tmp_path / "stereo.wav")
