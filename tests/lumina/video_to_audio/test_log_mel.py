"""The log-mel: frames, silence, tones in their bins, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from lumina.video_to_audio.log_mel import FLOOR, filter_bank, log_mel, mel_filters, prepare
from tests.lumina.video_to_audio.test_waveforms import tone


def test_eight_seconds_have_801_frames() -> None:
    mel = log_mel(torch.zeros(128_000))
    assert mel.shape == (801, 64)
    assert torch.all(mel == torch.tensor(math.log(FLOOR)))
    assert log_mel(torch.zeros(2, 3, 1600)).shape == (2, 3, 11, 64)


@pytest.mark.parametrize("hertz", [150.0, 440.0, 1500.0, 5000.0])
def test_a_tone_is_loudest_in_its_bin(hertz: float) -> None:
    peaks = mel_filters(16_000, 1024, 64, 8000.0).argmax(1) * 16_000 / 1024
    loudest = int(log_mel(0.5 * tone(hertz, 16_000)).mean(0).argmax())
    assert abs(peaks[loudest] - hertz) == (peaks - hertz).abs().min()


def test_triangles_have_equal_areas() -> None:
    filters = mel_filters(22_050, 2048, 128, 11_025.0)
    torch.testing.assert_close(filters.sum(1)[60:] * 22_050 / 2048, torch.ones(68).double(), rtol=0.05, atol=0)


def test_waves_are_centred_and_scaled_by_all_of_them() -> None:
    wave = torch.cat([0.1 * tone(440, 16_000), 0.3 * tone(300, 16_000)]) + 0.2
    long, padded = prepare(wave, 50), prepare(wave, 150)
    assert (len(long), len(padded)) == (16_000, 24_000)
    assert torch.equal(long, padded[:16_000])
    assert not padded[16_000:].any()
    assert long.abs().max() == 0.5
    assert filter_bank(wave, 50).shape == (50, 64)
    # The loud part, which is cut, still counts.
    assert long[:8000].abs().max() < 0.2


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_stays_silent(level: float) -> None:
    assert torch.all(filter_bank(torch.full((1600,), level), 10) == torch.tensor(math.log(FLOOR)))


def test_what_has_no_log_mel_is_named() -> None:
    with pytest.raises(ValueError, match="at least 513 samples, got 512"):
        log_mel(torch.zeros(512))
    with pytest.raises(ValueError, match="infinite or none"):
        log_mel(torch.full((600,), math.nan))
    with pytest.raises(ValueError, match="n >= 101"):
        prepare(torch.zeros(100), 10)
