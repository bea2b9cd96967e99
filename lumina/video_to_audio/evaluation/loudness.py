"""Loudness: RMS of a waveform in dB of full scale."""

from __future__ import annotations

import math

from torch import Tensor

LEAST_DBFS = -120.0
"""Of what is softer, or nothing."""


def dbfs(wave: Tensor) -> float:
    """20 log10(RMS) of a wave [n] in -1..1, -120 at least: a sine that fills it has -3.01."""
    power = float(wave.double().square().mean()) if len(wave) else 0.0
    return max(LEAST_DBFS, 10 * math.log10(power)) if power > 0 else LEAST_DBFS
