"""WAV files of 16 bits: what a sound is stored, listened to and measured as."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BYTES = 2


def write_wav(path: Path, samples: NDArray[np.int16], rate: int) -> None:
    """Write mono samples [n]; ValueError for another type or shape."""
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"samples must be int16 [n], got {samples.dtype} {list(samples.shape)}")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(_BYTES)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def read_wav(path: Path) -> tuple[NDArray[np.int16], int]:
    """Mono samples [n] of a file of 16 bits, and their rate; ValueError for another kind of file."""
    try:
        with wave.open(str(path), "rb") as file:
            kind = file.getnchannels(), file.getsampwidth()
            data, rate = file.readframes(file.getnframes()), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no WAV file: {error}") from error
    if kind != (1, _BYTES):
        raise ValueError(f"{path} must be mono of 16 bits, but has {kind[0]} channels of {8 * kind[1]} bits")
    return np.frombuffer(data, "<i2").astype(np.int16), rate
