"""Event classes by pitch: which of the known pitches sounds after an onset.

The pitch is where the Fourier transform of the 100 ms from the onset on (Hann window) is strongest, and the class the
known pitch that is nearest in log frequency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_LISTEN_S = 0.1
_POINTS = 1 << 15
"""Of the Fourier transform: half a hertz at 16 kHz."""
_LEAST_HZ = 50.0


def pitch(wave: Tensor, rate: int, time_s: float) -> float | None:
    """Hertz of what sounds strongest in 100 ms of a wave [n] from `time_s` on; None where nothing does."""
    first = max(0, round(time_s * rate))
    heard = wave[first : first + round(_LISTEN_S * rate)].double()
    if not len(heard) or not heard.any():
        return None
    window = torch.hann_window(len(heard), periodic=False, dtype=torch.float64)
    power = torch.fft.rfft((heard - heard.mean()) * window, _POINTS).abs()
    lowest = math.ceil(_LEAST_HZ * _POINTS / rate)
    strongest = int(power[lowest:].argmax()) + lowest
    return strongest * rate / _POINTS if power[strongest] > 0 else None


def nearest(pitch_hz: float, known_hz: Sequence[float]) -> float:
    """The known pitch with the smallest |ln(pitch / known)|; of two, the lower. ValueError for none."""
    if not known_hz:
        raise ValueError("there is no known pitch to be nearest to")
    return min(sorted(known_hz), key=lambda known: abs(math.log(pitch_hz / known)))


def classify(
    wave: Tensor, rate: int, onsets: Mapping[int, float], known_hz: Sequence[float]
) -> dict[int, float | None]:
    """Class in hertz of each event's onset.

    Args:
        wave: [n].
        rate: samples a second.
        onsets: seconds of the onsets, by the event that each is matched to.
        known_hz: the classes.

    Returns None for an event after whose onset nothing sounds.
    """
    heard = {event: pitch(wave, rate, time) for event, time in onsets.items()}
    return {event: None if one is None else nearest(one, known_hz) for event, one in heard.items()}
