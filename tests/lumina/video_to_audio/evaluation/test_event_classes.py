"""Classes by pitch: every tone of Shapes, overlapping ones, silence."""

from __future__ import annotations

import pytest
import torch

from lumina.shapes import tones
from lumina.video_to_audio.evaluation.event_classes import classify, nearest, pitch

KNOWN = [*tones.PITCHES_HZ.values(), tones.OFF_SCREEN_HZ]


@pytest.mark.parametrize("kind", ["circle", "square", "triangle"])
def test_every_tone_is_told(kind: str) -> None:
    for hertz in KNOWN:
        heard = tones.waveform([tones.SoundEvent(0.3, hertz, kind, "red", 0.4)], 1.0)
        wave = torch.from_numpy(heard)
        # The detector may be early or late by a frame.
        for onset in (0.28, 0.3, 0.32):
            assert classify(wave, tones.SAMPLE_RATE, {0: onset}, KNOWN) == {0: hertz}
        assert pitch(wave, tones.SAMPLE_RATE, 0.3) == pytest.approx(hertz, rel=0.02)


def test_the_louder_of_two_tones_and_silence() -> None:
    events = [
        tones.SoundEvent(0.1, 700.0, "square", "green", 0.4),
        tones.SoundEvent(0.6, 1230.0, "circle", "blue", 0.3),
    ]
    wave = torch.from_numpy(tones.waveform(events, 1.6))
    assert classify(wave, 16_000, {0: 0.1, 3: 0.6, 4: 1.4}, KNOWN) == {0: 700.0, 3: 1230.0, 4: None}
    assert pitch(wave, 16_000, 5.0) is None


def test_an_offset_is_no_pitch() -> None:
    at = torch.arange(1600) / 16_000
    # Of the window's side lobes of an offset, those above 50 Hz are louder than this tone.
    wave = 0.5 + 2e-6 * torch.sin(2 * torch.pi * 700 * at.double())
    assert pitch(wave, 16_000, 0.0) == pytest.approx(700, rel=0.02)


def test_nearness_is_by_ratio() -> None:
    assert nearest(420.0, [400.0, 441.01]) == 400.0
    assert nearest(420.01, [441.0, 400.0]) == 441.0
    with pytest.raises(ValueError, match="no known pitch"):
        nearest(420.0, [])
