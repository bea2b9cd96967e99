"""Waveforms: 16-bit PCM to floats and back, several channels to one, and polyphase resampling."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

FULL_SCALE = 32768
_ZEROS = 10
"""Of the resampling filter's sinc, on either side."""
_KAISER_BETA = 5.0
_CHUNK = 1 << 14


def from_pcm16(samples: NDArray[np.int16]) -> Tensor:
    """Samples of 16 bits, [n] or [n, channels], as float32 in -1..1."""
    if samples.dtype != np.int16 or samples.ndim not in (1, 2):
        raise ValueError(f"samples must be int16 [n] or [n, channels], got {samples.dtype} {list(samples.shape)}")
    return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)


def to_pcm16(wave: Tensor) -> NDArray[np.int16]:
    """Samples of 16 bits: 32768 times the float, cut towards zero as AudioLDM does; what is too loud is clipped."""
    scaled = wave.detach().float().cpu().double() * FULL_SCALE
    return scaled.trunc().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16).numpy()


def mono(wave: Tensor) -> Tensor:
    """The mean of the channels: [n] of [n] or [n, channels]."""
    return wave if wave.ndim == 1 else wave.mean(1)


def resample(wave: Tensor, rate: int, target: int) -> Tensor:
    """Change the sample rate by a Kaiser-windowed sinc (beta 5, ten zeros a side), as `scipy.signal.resample_poly`.

    Args:
        wave: [n] float.
        rate: samples a second of `wave`.
        target: samples a second wanted.

    Returns:
        float32 [ceil(n * target / rate)].
    """
    if wave.ndim != 1 or not len(wave) or min(rate, target) < 1:
        raise ValueError(
            f"a wave must be [n] with n >= 1, and rates 1 or more, got {list(wave.shape)}, {rate}, {target}"
        )
    common = math.gcd(rate, target)
    up, down = target // common, rate // common
    if up == down:
        return wave.float()
    length = -(-len(wave) * up // down)
    # Output i lies at input i down / up: a whole sample, and one of `up` phases, each of which has a short filter.
    reach = -(-_ZEROS * max(up, down) // up)
    taps = torch.arange(-reach, reach + 2, dtype=torch.float64)
    apart = taps[None] - torch.arange(up, dtype=torch.float64)[:, None] / up
    # The sinc's zeros are so many input samples apart, and the window ends at the tenth.
    apart *= min(1, up / down)
    inside = (1 - (apart / _ZEROS).square()).clamp(min=0)
    window = torch.i0(_KAISER_BETA * inside.sqrt()) / torch.i0(torch.tensor(_KAISER_BETA, dtype=torch.float64))
    filters = torch.where(apart.abs() <= _ZEROS, torch.sinc(apart) * window, 0)
    filters /= filters.sum(1).mean()
    place = torch.arange(length) * down
    whole, phase = place // up, place % up
    windows = F.pad(wave.double(), (reach, reach + 2)).unfold(0, len(taps), 1)
    parts = zip(whole.split(_CHUNK), phase.split(_CHUNK), strict=True)
    return torch.cat([torch.linalg.vecdot(windows[at], filters[which]) for at, which in parts]).float()
