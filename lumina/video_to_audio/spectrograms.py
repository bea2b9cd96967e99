"""Spectrograms as pictures: the log-mel of a sound as a PNG, time to the right and pitch upwards."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lumina.video_to_audio.log_mel import BINS, MAX_HZ, SAMPLE_RATE, WINDOW, log_mel, mel_filters

_QUIET, _LOUD = -9.0, 1.5
"""Log-mel values at both ends of the scale, the same for all pictures: loudness can be compared."""
_COLORS = (
    (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122), (229, 80, 100), (251, 135, 97),
    (254, 194, 135), (252, 253, 191),
)  # fmt: skip
"""From quiet to loud; brightness rises, so that it reads in grey, too."""


def spectrogram_png(wave: Tensor) -> bytes:
    """The log-mel of a wave [n] at 16 kHz as a PNG, 100 columns a second and 64 rows, the lowest pitch at the bottom.

    Raises ValueError as `log_mel`.
    """
    from PIL import Image

    level = (log_mel(wave)[:-1].numpy().T[::-1] - _QUIET) / (_LOUD - _QUIET)
    picture = Image.fromarray(np.round(255 * level.clip(0, 1)).astype(np.uint8))
    picture.putpalette(_palette().ravel().tolist())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def height_of(hertz: float) -> float:
    """Where a pitch is in the picture: 0 at its bottom, 1 at its top."""
    line = min(round(hertz * WINDOW / SAMPLE_RATE), WINDOW // 2)
    return (float(mel_filters(SAMPLE_RATE, WINDOW, BINS, MAX_HZ)[:, line].argmax()) + 0.5) / BINS


@cache
def _palette() -> NDArray[np.uint8]:
    stops = np.linspace(0, 255, len(_COLORS))
    channels = np.array(_COLORS, dtype=np.float64).T
    return np.stack([np.interp(np.arange(256), stops, one) for one in channels], 1).round().astype(np.uint8)
