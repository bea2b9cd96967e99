"""Tones: the decaying sounds of the Shapes world, and the waveform that they add up to.

A tone's pitch is its shape's colour, its timbre and decay the shape's kind. Between tones there is digital silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
PITCHES_HZ: dict[str, float] = {
    "red": 400.0,
    "yellow": 530.0,
    "green": 700.0,
    "cyan": 930.0,
    "blue": 1230.0,
    "magenta": 1630.0,
}
"""Colour name to the pitch of its shapes: about a fourth apart."""
OFF_SCREEN_HZ = 2600.0
"""Pitch of what is heard and not seen: that of no shape."""
_TIMBRES: dict[str, tuple[float, tuple[float, ...]]] = {
    "circle": (0.10, (1.0,)),
    "square": (0.06, (1.0, 0.0, 1 / 3, 0.0, 1 / 5)),
    "triangle": (0.08, (1.0, 1 / 2, 1 / 3, 1 / 4)),
}
"""Of each kind: seconds in which the tone falls to 1/e, and the levels of its harmonics."""
_ATTACK_S = 0.003
_DECAYS = 5
"""Times of decay after which a tone has ended."""
_FADE = 0.3
"""Share of a tone, at its end, in which it fades to nothing: an abrupt end would be heard as another beginning."""
_HIGHEST_HZ = 7000.0


@dataclass(frozen=True)
class SoundEvent:
    """Something that is heard."""

    time_s: float
    """When it begins, from the first frame on."""
    pitch_hz: float
    kind: str
    """Of its shape: what its timbre is."""
    color: str | None
    """Of its shape; None: off-screen."""
    level: float
    """Peak, in (0, 1]."""


def waveform(events: Iterable[SoundEvent], duration_s: float, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """The sum of all tones, float32 [duration_s * rate] in -1..1: a tone begins at its time to less than a sample.

    Raises:
        ValueError: tones that are heard together are louder than full scale.
    """
    out = np.zeros(round(duration_s * rate))
    for event in events:
        first = max(0, int(np.ceil(event.time_s * rate)))
        stop = min(len(out), first + int(_length(event.kind) * rate))
        if first < stop:
            out[first:stop] += event.level * _tone(event, np.arange(first, stop) / rate - event.time_s)
    peak = float(np.abs(out).max(initial=0))
    if peak > 1:
        raise ValueError(f"tones add up to a peak of {peak:.3g}, which is above 1: lower their levels")
    return out.astype(np.float32)


def _length(kind: str) -> float:
    return _DECAYS * _TIMBRES[kind][0]


def _tone(event: SoundEvent, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of peak 1 at most, at times in seconds after it begins."""
    decay, harmonics = _TIMBRES[event.kind]
    heard = [(k, level) for k, level in enumerate(harmonics, 1) if level and k * event.pitch_hz < _HIGHEST_HZ]
    wave = np.zeros_like(t)
    for k, level in heard:
        wave += level * np.sin(2 * np.pi * k * event.pitch_hz * t)
    end = _length(event.kind)
    envelope = np.minimum(t / _ATTACK_S, 1) * np.exp(-t / decay) * np.clip((end - t) / (_FADE * end), 0, 1)
    return envelope * wave / sum(level for _, level in heard)
