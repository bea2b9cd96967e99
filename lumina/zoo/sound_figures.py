"""How good a vocoder is: errors of mels and spectra, onsets and pitches of what it makes of unseen sounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.shapes.tones import OFF_SCREEN_HZ, PITCHES_HZ, SoundEvent
from lumina.video_to_audio.log_mel import SAMPLE_RATE, log_mel
from lumina.video_to_audio.onsets import onset_times
from lumina.zoo.sounds import FRAMES, SECONDS, Sound

TOLERANCE_S = 0.05
_ALONE_S = 0.2
"""A pitch is read where no other tone begins within so many seconds before and after."""
_HEARD_S = (0.01, 0.11)
"""After an onset, from when to when its pitch is read."""
_WINDOWS = (256, 512, 1024, 2048)


def matched(true: Sequence[float], found: Sequence[float], tolerance: float = TOLERANCE_S) -> int:
    """How many times, both ascending, pair off one to one within the tolerance."""
    pairs, rest = 0, list(found)
    for time in true:
        near = [other for other in rest if abs(other - time) <= tolerance]
        if near:
            rest = [other for other in rest if other > near[0]]
            pairs += 1
    return pairs


def pitches(wave: NDArray[np.float64], events: Sequence[SoundEvent]) -> tuple[int, int]:
    """How many tones that are heard alone have their pitch as the loudest of all known ones, and how many there are."""
    known = np.array([*PITCHES_HZ.values(), OFF_SCREEN_HZ])
    times = [-1.0, *(event.time_s for event in events), SECONDS + 1]
    right = heard = 0
    for number, event in enumerate(events, 1):
        first, stop = (round((event.time_s + after) * SAMPLE_RATE) for after in _HEARD_S)
        alone = min(after - before for before, after in pairwise(times[number - 1 : number + 2])) >= _ALONE_S
        if not alone or stop > len(wave):
            continue
        piece = wave[first:stop] * np.hanning(stop - first)
        loudest = np.abs(np.fft.rfft(piece, 1 << 14)).argmax() * SAMPLE_RATE / (1 << 14)
        right += int(known[np.abs(np.log(known / max(loudest, 1.0))).argmin()] == event.pitch_hz)
        heard += 1
    return right, heard


def convergence(wave: Tensor, true: Tensor) -> float:
    """Spectral convergence, the relative error of magnitudes, in the mean over four window lengths."""
    errors = []
    for window in _WINDOWS:
        shape = torch.hann_window(window)
        found, wanted = (
            torch.stft(one, window, window // 4, window=shape, return_complex=True).abs() for one in (wave, true)
        )
        errors.append(float((found - wanted).norm() / wanted.norm().clamp(min=1e-6)))
    return sum(errors) / len(errors)


def figures(waves: Sequence[Tensor], sounds: Sequence[Sound]) -> dict[str, float]:
    """Of waves [64,000] that stand for sounds.

    `mel_l1`: mean absolute error in nepers of the log-mels that the waves have; `convergence`; and if the sounds have
    events `onset_f1` within 50 ms of the true times, and `pitch`, the share of tones whose loudest partial is theirs.
    """
    errors, distances, pairs, times, right, tones = [], [], 0, 0, 0, 0
    for wave, sound in zip(waves, sounds, strict=True):
        off = log_mel(wave)[:FRAMES] - log_mel(sound.wave)[:FRAMES]
        errors.append(float(off.abs().mean()))
        if sound.wave.any():
            distances.append(convergence(wave, sound.wave))
        found, true = onset_times(wave, SAMPLE_RATE), [event.time_s for event in sound.events]
        pairs, times = pairs + matched(true, found), times + len(true) + len(found)
        good, heard = pitches(wave.double().numpy(), sound.events)
        right, tones = right + good, tones + heard
    result = {"mel_l1": float(np.mean(errors)), "convergence": float(np.mean(distances))}
    return result | ({"onset_f1": 2 * pairs / times, "pitch": right / tones} if tones else {})
