"""Onsets of a sound: spectral flux on 128 mel bands, and its peaks, with the numbers of librosa 0.11's defaults.

Only the times matter to AV-Align, and they are in steps of 512 samples at 22.05 kHz, 23 ms.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.video_to_audio.log_mel import mel_filters
from lumina.video_to_audio.waveforms import mono, resample

SAMPLE_RATE = 22_050
HOP = 512
_WINDOW, _BANDS = 2048, 128
_POWER_FLOOR, _RANGE_DB = 1e-10, 80.0
_LAG = 1
_DELTA = 0.07
"""By how much of the envelope's range an onset stands out of the mean around it."""
_BEFORE, _AFTER = 4, 4
"""Frames around an onset of which that mean is taken."""
_WAIT = 1
"""Frames after an onset in which there is no other."""


def onset_envelope(wave: Tensor) -> NDArray[np.float32]:
    """How much louder the bands become from frame to frame, in dB: [n // 512 + 1] of a wave [n] at 22.05 kHz."""
    if wave.ndim != 1 or not len(wave):
        raise ValueError(f"a wave must be [n] with n >= 1, got {list(wave.shape)}")
    window = torch.hann_window(_WINDOW, dtype=torch.float64)
    spectrum = torch.stft(
        wave.double(), _WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = mel_filters(SAMPLE_RATE, _WINDOW, _BANDS, SAMPLE_RATE / 2) @ spectrum.abs().square()
    decibels = 10 * power.clamp(min=_POWER_FLOOR).log10()
    decibels = decibels.clamp(min=decibels.max() - _RANGE_DB)
    flux = (decibels[:, _LAG:] - decibels[:, :-_LAG]).clamp(min=0).mean(0).numpy()
    # A frame's flux counts where its window is half over.
    late = _LAG + _WINDOW // (2 * HOP)
    return np.concatenate([np.zeros(late), flux])[: decibels.shape[1]].astype(np.float32)


def onset_frames(envelope: NDArray[np.floating]) -> list[int]:
    """Frames of an envelope [n] that are higher than the one before and stand out of their surroundings."""
    values = envelope.astype(np.float64)
    if not len(values) or values.max() == 0:
        return []
    values -= values.min()
    values /= values.max() or 1.0
    found: list[int] = []
    for frame, value in enumerate(values):
        around = values[max(frame - _BEFORE, 0) : frame + _AFTER + 1]
        if found and frame - found[-1] <= _WAIT:
            continue
        if value >= values[max(frame - 1, 0)] and value >= around.mean() + _DELTA:
            found.append(frame)
    return found


def onset_times(wave: Tensor, rate: int) -> list[float]:
    """Seconds at which sounds begin in a wave, [n] or [n, channels], at `rate` samples a second."""
    heard = resample(mono(wave), rate, SAMPLE_RATE)
    return [frame * HOP / SAMPLE_RATE for frame in onset_frames(onset_envelope(heard))]
