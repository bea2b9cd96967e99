"""Mel distances: values by hand, the same sound, silence."""

from __future__ import annotations

import math

import pytest
import torch

from lumina.video_to_audio.evaluation.mel_distance import MOST_DB, mel_l1, mel_recon_snr
from lumina.video_to_audio.log_mel import FLOOR


def test_by_hand() -> None:
    true = torch.tensor([[0.0, math.log(2)]])
    made = torch.tensor([[math.log(2), math.log(2)]])
    assert mel_l1(true, made) == pytest.approx(math.log(2) / 2)
    # Magnitudes 1 and 2 against 2 and 2: the power is 5, the error 1.
    assert mel_recon_snr(true, made) == pytest.approx(10 * math.log10(5))
    assert mel_recon_snr(true, true) == MOST_DB
    assert mel_l1(true, true) == 0
    # Up to the ceiling it is as it is.
    assert mel_recon_snr(true.double(), true.double() + 1e-4) == pytest.approx(80, abs=1e-3)


def test_a_silent_truth_has_no_ratio() -> None:
    silent = torch.full((3, 64), math.log(FLOOR))
    assert mel_recon_snr(silent, silent + 1) is None
    assert mel_l1(silent, silent + 1) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"must both be \[frames, bins\]"):
        mel_l1(silent, silent[:2])
