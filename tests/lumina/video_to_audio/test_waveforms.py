"""16-bit samples, channels, and resampling that keeps tones and drops what the new rate cannot hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lumina.video_to_audio.waveforms import from_pcm16, mono, resample, to_pcm16


def tone(hertz: float, rate: int, seconds: float = 0.5) -> Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(round(rate * seconds)) / rate)


def test_samples_of_16_bits_come_back() -> None:
    samples = np.array([-32768, -1, 0, 1, 32767], np.int16)
    assert np.array_equal(to_pcm16(from_pcm16(samples)), samples)
    assert to_pcm16(torch.tensor([1.0, 2.0, -2.0, 1.9 / 32768, -1.9 / 32768])).tolist() == [32767, 32767, -32768, 1, -1]
    with pytest.raises(ValueError, match="samples must be int16"):
        from_pcm16(np.zeros(3, np.float32))  # type: ignore[arg-type]


def test_channels_become_their_mean() -> None:
    stereo = torch.tensor([[1.0, 0.0], [0.5, -0.5]])
    assert mono(stereo).tolist() == [0.5, 0.0]
    assert mono(stereo[:, 0]) is not stereo
    assert mono(stereo[:, 0]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(("rate", "target"), [(44_100, 16_000), (8_000, 16_000), (96_000, 16_000), (44_101, 16_000)])
def test_a_tone_keeps_its_height_at_any_rate(rate: int, target: int) -> None:
    got, want = resample(tone(440, rate), rate, target), tone(440, target)
    assert len(got) == math.ceil(round(rate * 0.5) * target / rate)
    # Both ends hear silence beyond.
    inside = slice(200, -200)
    torch.testing.assert_close(got[: len(want)][inside], want[: len(got)][inside], rtol=0, atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    assert resample(tone(11_000, 44_100), 44_100, 16_000)[200:-200].abs().max() < 0.02
    wave = tone(440, 16_000)
    assert torch.equal(resample(wave, 16_000, 16_000), wave)
    with pytest.raises(ValueError, match=r"a wave must be \[n\]"):
        resample(torch.zeros(0), 44_100, 16_000)
