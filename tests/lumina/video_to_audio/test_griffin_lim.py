"""Griffin-Lim: tones keep pitch and onset, silence stays silent, the same mel gives the same wave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lumina.video_to_audio.griffin_lim import GriffinLim, GriffinLimConfig, griffin_lim, magnitudes
from lumina.video_to_audio.log_mel import BINS, FLOOR, MAX_HZ, SAMPLE_RATE, WINDOW, filter_bank, mel_filters
from lumina.video_to_audio.onsets import onset_times
from tests.lumina.video_to_audio.scenes import bursts

SILENT = torch.full((1, 12, BINS), FLOOR).log()


@pytest.fixture(scope="module")
def mel() -> Tensor:
    """Of tones that begin after 0.3 and 0.9 s."""
    return filter_bank(bursts(SAMPLE_RATE, 1.6, 0.3, 0.9), 160)[None]


def test_magnitudes_have_the_mel(mel: Tensor) -> None:
    found = magnitudes(mel)
    assert found.shape == (1, WINDOW // 2 + 1, 160)
    assert found.min() >= 0
    again = (mel_filters(SAMPLE_RATE, WINDOW, BINS, MAX_HZ).float() @ found).clamp(min=FLOOR).log()
    assert (again.transpose(1, 2) - mel).abs().mean() < 0.02


def test_the_wave_has_the_mel_and_the_onsets(mel: Tensor) -> None:
    wave = griffin_lim(mel)
    assert wave.shape == (1, 160 * 160)
    assert wave.dtype == torch.float32
    assert wave.abs().max() <= 1
    assert (filter_bank(wave[0], 160)[None] - mel).abs().mean() < 0.5
    true = onset_times(bursts(SAMPLE_RATE, 1.6, 0.3, 0.9), SAMPLE_RATE)
    assert onset_times(wave[0], SAMPLE_RATE) == pytest.approx(true, abs=0.03)


@pytest.mark.parametrize("hertz", [400.0, 1230.0, 2600.0])
def test_tones_keep_their_pitch_and_about_their_level(hertz: float) -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(16_000) / SAMPLE_RATE)
    wave = griffin_lim(filter_bank(tone, 100)[None])[0, 1600:-1600]
    assert float(torch.fft.rfft(wave).abs().argmax()) * SAMPLE_RATE / len(wave) == pytest.approx(hertz, rel=0.03)
    # A mel bin does not say that one frequency has all of its magnitude: spread over several it is less loud.
    assert 0.45 < float((wave.square().mean() / 0.125).sqrt()) < 1.1


def test_each_wave_is_its_own_mels_alone(mel: Tensor) -> None:
    assert torch.equal(griffin_lim(mel), griffin_lim(mel))
    both = griffin_lim(torch.cat([mel, mel.flip(1)]))
    assert torch.equal(both, torch.cat([griffin_lim(mel), griffin_lim(mel.flip(1))]))


def test_magnitudes_of_a_quiet_frame_owe_nothing_to_a_loud_one(mel: Tensor) -> None:
    both = magnitudes(torch.cat([mel - 4, mel], dim=1))
    torch.testing.assert_close(both[:, :, :160], magnitudes(mel - 4))


def test_silence_and_short_mels() -> None:
    assert not griffin_lim(SILENT).any()
    assert griffin_lim(SILENT[:, :1]).shape == (1, 160)


@pytest.mark.parametrize("shape", [(1, 10, 80), (10, BINS), (1, 0, BINS)])
def test_another_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"log-mels must be \[B, T, 64\] with T >= 1, got"):
        griffin_lim(torch.zeros(shape))


def test_iterations_make_the_wave_fit_better(mel: Tensor) -> None:
    def error(iterations: int) -> float:
        wave = GriffinLim(GriffinLimConfig(iterations=iterations))(mel)[0]
        return float((filter_bank(wave, 160)[None] - mel).abs().mean())

    assert error(32) < error(2) < error(0)


def test_settings_are_a_file(tmp_path: Path) -> None:
    GriffinLim(GriffinLimConfig(iterations=7)).save_pretrained(tmp_path / "vocoder")
    path = tmp_path / "vocoder" / "config.json"
    assert GriffinLim.from_pretrained(path.parent).config.iterations == 7
    for settings, message in (
        ({"iterations": -1}, "iterations: Input should be greater"),
        ({"rounds": 3}, "rounds: Extra inputs"),
        ({"vocoder": "world"}, "vocoder: Input should be 'griffin_lim'"),
    ):
        path.write_text(json.dumps({"vocoder": "griffin_lim"} | settings))
        with pytest.raises(ValueError, match=rf"config.json does not fit Griffin-Lim: {message}"):
            GriffinLim.from_pretrained(path.parent)
