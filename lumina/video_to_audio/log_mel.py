"""The log-mel spectrogram of AudioLDM (Liu et al. 2023, arXiv 2301.12503), and mel filter banks by Slaney's formula.

Frames are 10 ms apart at 16 kHz; what is between -1 and 1 becomes natural logarithms from ln(1e-5) up.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000
HOP = 160
WINDOW = 1024
BINS = 64
MAX_HZ = 8000.0
FLOOR = 1e-5
"""Smallest mel magnitude; its logarithm is what silence has."""
PEAK = 0.5
SILENCE = 1e-6
"""A waveform that departs from its mean by no more is silent: one step of 16 bits is 30 times as much."""
_EPS = 1e-8
_LEAST_SAMPLES = 101
_LINEAR_HZ, _BREAK_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27


@cache
def mel_filters(rate: int, window: int, bins: int, max_hz: float) -> Tensor:
    """Triangles of equal area in Hz from 0 to `max_hz`, by Slaney's scale: linear up to 1 kHz, logarithmic above.

    Args:
        rate: samples a second.
        window: samples of the Fourier transform.
        bins: triangles.
        max_hz: where the last one ends.

    Returns:
        float64 [bins, window / 2 + 1].
    """
    top = (
        _BREAK_HZ / _LINEAR_HZ + math.log(max_hz / _BREAK_HZ) / _LOG_STEP if max_hz > _BREAK_HZ else max_hz / _LINEAR_HZ
    )
    mels = torch.linspace(0, top, bins + 2, dtype=torch.float64)
    knee = _BREAK_HZ / _LINEAR_HZ
    corners = torch.where(mels < knee, mels * _LINEAR_HZ, _BREAK_HZ * torch.exp(_LOG_STEP * (mels - knee)))
    hertz = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (right - left))


def log_mel(wave: Tensor) -> Tensor:
    """ln(max(mel magnitude, 1e-5)) of waves: float32 [..., n // 160 + 1, 64] of [..., n], frame k around sample 160 k.

    Raises ValueError for fewer than 513 samples, or numbers that are none.
    """
    least = WINDOW // 2 + 1
    if wave.shape[-1] < least:
        raise ValueError(f"a log-mel needs at least {least} samples, got {wave.shape[-1]}")
    if not wave.isfinite().all():
        raise ValueError("the wave holds numbers that are infinite or none")
    flat = wave.reshape(-1, wave.shape[-1]).double().clamp(-1, 1)
    window = torch.hann_window(WINDOW, dtype=torch.float64, device=wave.device)
    spectrum = torch.stft(flat, WINDOW, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    mel = mel_filters(SAMPLE_RATE, WINDOW, BINS, MAX_HZ).to(wave.device) @ spectrum.abs()
    return mel.clamp(min=FLOOR).log().float().transpose(1, 2).contiguous().reshape(*wave.shape[:-1], -1, BINS)


def prepare(wave: Tensor, frames: int) -> Tensor:
    """Centre a wave, scale its peak to 0.5, and fill up with zeros to 160 samples a frame, as AudioLDM does.

    A longer wave keeps its length: mean and peak are of all of it. A silent one becomes zeros, where AudioLDM fails.

    Args:
        wave: [n] mono at 16 kHz.
        frames: of the mel.

    Returns:
        float32 [max(n, 160 frames)]. Raises ValueError for 100 samples or fewer.
    """
    if wave.ndim != 1 or len(wave) < _LEAST_SAMPLES:
        raise ValueError(f"a wave must be [n] with n >= {_LEAST_SAMPLES}, got {list(wave.shape)}")
    centred = wave.float() - wave.float().mean()
    peak = centred.abs().max()
    if peak <= SILENCE:
        return centred.new_zeros(max(len(wave), frames * HOP))
    padded = F.pad(centred / (peak + _EPS) * PEAK, (0, max(0, frames * HOP - len(wave))))
    # Once more, as released: padding has moved nothing, but the first scaling fell short by its epsilon.
    return padded / padded.abs().max() * PEAK


def filter_bank(wave: Tensor, frames: int) -> Tensor:
    """The first `frames` frames of a prepared wave's log-mel, float32 [frames, 64]: what AudioLDM's VAE encodes."""
    return log_mel(prepare(wave, frames))[:frames]
