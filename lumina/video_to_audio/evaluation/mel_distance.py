"""Mel distances of two sounds that should be the same, on AudioLDM's log-mels.

    mel_l1 = mean |log m - log m'|
    mel_recon_snr = 10 log10( sum m^2 / sum (m - m')^2 )  dB

m being the true sound's mel magnitudes. A sound that comes at the right times with another pitch, or too late by a
frame, has a large distance all the same: they say how near a sound is to one recording, not how well it fits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.video_to_audio.log_mel import FLOOR

MOST_DB = 100.0
"""Of what is the same to the last bits."""


def _checked(true: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    if true.shape != made.shape or true.ndim != 2 or not len(true):
        raise ValueError(f"log-mels must both be [frames, bins], got {list(true.shape)} and {list(made.shape)}")
    return true.double(), made.double()


def mel_l1(true: Tensor, made: Tensor) -> float:
    """Mean absolute difference of two log-mels [frames, bins], natural logarithms. ValueError for unlike shapes."""
    true, made = _checked(true, made)
    return float((true - made).abs().mean())


def mel_recon_snr(true: Tensor, made: Tensor) -> float | None:
    """dB between a true log-mel [frames, bins] and the error of another, 100 at most; None where the true is silent."""
    true, made = _checked(true, made)
    signal, made = true.exp(), made.exp()
    if float(signal.max()) <= FLOOR * (1 + 1e-6):
        return None
    error = float((signal - made).square().sum())
    power = float(signal.square().sum())
    if error <= power * 10 ** (-MOST_DB / 10):
        return MOST_DB
    return float(10 * torch.tensor(power / error, dtype=torch.float64).log10())
