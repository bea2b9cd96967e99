"""Measures of one sound: against the events that are known, the motion that is seen, and the true sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lumina.video_to_audio.av_align import align
from lumina.video_to_audio.evaluation.event_classes import classify
from lumina.video_to_audio.evaluation.known_events import KnownEvents
from lumina.video_to_audio.evaluation.loudness import dbfs
from lumina.video_to_audio.evaluation.mel_distance import mel_l1, mel_recon_snr
from lumina.video_to_audio.evaluation.onset_f1 import audible, count_some, match
from lumina.video_to_audio.log_mel import SAMPLE_RATE, log_mel
from lumina.video_to_audio.onsets import onset_times


@dataclass(frozen=True, eq=False)
class Clip:
    """What a sound is measured against."""

    duration_s: float
    """Of the sound."""
    peaks: tuple[float, ...]
    """Seconds at which motion peaks."""
    fps: float
    """Frames per second that were looked at for them."""
    events: KnownEvents | None
    """None where nothing is known."""
    mel: Tensor
    """[frames, 64] log-mel of the true sound, at the level at which the codec knows it."""


def mel_of(wave: Tensor, frames: int) -> Tensor:
    """The first frames of a wave's log-mel, [frames, 64]."""
    return log_mel(wave)[:frames]


def measure(wave: Tensor, clip: Clip, known_hz: Sequence[float], least_dbfs: float) -> tuple[dict[str, Any], Tensor]:
    """Measure a wave [n] at 16 kHz.

    Args:
        wave: what was made.
        clip: what it should fit.
        known_hz: pitches of the classes.
        least_dbfs: RMS below which an onset is not heard; it counts for AV-Align as released all the same.

    Returns:
        Columns of its row, and its log-mel [frames, 64].
    """
    mel = mel_of(wave, len(clip.mel))
    onsets = onset_times(wave, SAMPLE_RATE)
    heard = audible(onsets, wave, SAMPLE_RATE, least_dbfs)
    aligned = align(onsets, clip.peaks, clip.fps, clip.duration_s)
    row = {
        "rms_dbfs": dbfs(wave),
        "onset_times_s": heard,
        "av_align": aligned.score,
        "av_align_chance": aligned.chance,
        "av_align_excess": aligned.excess,
        "av_align_onsets": aligned.onsets,
        "mel_l1": mel_l1(clip.mel, mel),
        "mel_recon_snr": mel_recon_snr(clip.mel, mel),
    }
    if clip.events is not None:
        row |= _against(clip.events, heard, wave, known_hz)
    return row, mel


def _against(events: KnownEvents, onsets: Sequence[float], wave: Tensor, known_hz: Sequence[float]) -> dict[str, Any]:
    pairs = dict(match(events.times_s, onsets))
    seen = count_some(events.times_s, events.seen, onsets)
    classes = classify(wave, SAMPLE_RATE, {event: onsets[onset] for event, onset in pairs.items()}, known_hz)
    correct = [hertz == events.pitches_hz[event] for event, hertz in classes.items()]
    return {
        "events": len(events.times_s),
        "onsets": len(onsets),
        "hits": len(pairs),
        "seen_events": seen.events,
        "seen_onsets": seen.onsets,
        "seen_hits": seen.hits,
        "class_hits": sum(correct),
        "found_pitch_hz": [classes.get(event) for event in range(len(events.times_s))],
    }
