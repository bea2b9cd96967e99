"""Onsets: at the times at which tones begin, at any rate, and none in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lumina.video_to_audio.onsets import HOP, SAMPLE_RATE, onset_envelope, onset_frames, onset_times
from tests.lumina.video_to_audio.scenes import bursts


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_tones_begin_where_they_begin(rate: int) -> None:
    starts = (0.3, 0.9, 1.5)
    found = onset_times(bursts(rate, 2.0, *starts), rate)
    for start in starts:
        assert min(abs(time - start) for time in found) <= 1.5 * HOP / SAMPLE_RATE
    stereo = torch.stack([bursts(rate, 2.0, *starts)] * 2, dim=1)
    assert onset_times(stereo, rate) == found


def test_silence_has_no_onset() -> None:
    assert onset_frames(onset_envelope(torch.zeros(22_050))) == []
    assert onset_frames(np.full(20, 3.0)) == []
    assert onset_frames(np.zeros(0)) == []


@pytest.mark.parametrize(
    ("envelope", "frames"),
    [
        ([0, 0, 1, 0, 0, 1, 0], [2, 5]),
        # The frame after an onset is none, however high; a plateau's later frame is one.
        ([0, 0, 0.5, 1, 0, 0, 0], [2]),
        ([0, 0, 1, 1, 1, 0, 0, 0, 0, 0], [2, 4]),
        ([1, 0, 0, 0, 0, 0], [0]),
        # It must stand out by 0.07 of the range.
        ([1, 0, 0, 0, 0, 0, 0.05, 0, 0, 0, 0], [0]),
        ([1, 0, 0, 0, 0, 0, 0, 0.09, 0, 0, 0, 0], [0, 7]),
    ],
)
def test_peaks_that_stand_out(envelope: list[float], frames: list[int]) -> None:
    assert onset_frames(np.array(envelope, np.float32)) == frames
