"""Sounds that begin and squares that jump at known times."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lumina.video_to_audio.motion_peaks import Frames
from tests.lumina.reference_numbers import draw


def bursts(rate: int, seconds: float, *times_s: float) -> Tensor:
    """Decaying tones that begin at these times, over faint noise: float32 [n]."""
    t = torch.arange(round(rate * seconds)) / rate
    wave = 0.001 * draw("hiss", len(t))
    for number, start in enumerate(times_s):
        after = (t - start).clamp(min=0)
        wave += (t >= start) * 0.4 * torch.exp(-12 * after) * torch.sin(2 * math.pi * (500 + 300 * number) * after)
    return wave


def jumps(fps: int, seconds: float, *times_s: float) -> Frames:
    """A bright square that jumps at these times: uint8 [T, 48, 64, 3]."""
    clip = np.full((round(fps * seconds), 48, 64, 3), 40, np.uint8)
    for number, frame in enumerate(clip):
        left = 6 + 7 * sum(number / fps >= start for start in times_s)
        frame[16:32, left : left + 16] = (220, 180, 60)
    return clip
