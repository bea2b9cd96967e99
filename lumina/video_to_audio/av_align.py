"""AV-Align (Yariv et al. 2023, arXiv 2309.16429): do sounds begin when things move? And how much of that is chance.

A dense sound meets a dense motion by chance, so a score says little without its chance level: the mean score when the
onsets are shifted in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lumina.video_to_audio.motion_peaks import Version

SHIFTS = 100
"""Circular shifts, evenly spaced, of which the chance level is the mean."""


@dataclass(frozen=True)
class Alignment:
    """The score of one clip. There is none, and no chance level, where nothing sounds and nothing moves."""

    version: Version
    score: float | None
    """Matches per onset or peak, 0..1 in v2025; v2023 counts a peak for every onset near it and may exceed 1."""
    onsets: int
    peaks: int
    chance: float | None
    """Mean score under circular shifts of the onsets."""

    @property
    def excess(self) -> float | None:
        """The score above chance."""
        return None if self.score is None or self.chance is None else self.score - self.chance


def av_align(onsets: Sequence[float], peaks: Sequence[float], fps: float, version: Version = "v2025") -> float | None:
    """hits / (onsets + peaks - hits), the released score; None where there are neither.

    Args:
        onsets: seconds at which sounds begin.
        peaks: seconds at which motion peaks.
        fps: of the video: an onset meets a peak less than one frame away.
        version: v2025 lets the onsets, in order, each take the first peak that is still free; in v2023 a peak serves
            any number of onsets.
    """
    window = 1 / fps
    free = list(peaks)
    hits = 0
    for onset in onsets:
        # As released, to the last bit: the difference of the two is not the same number.
        met = next((peak for peak in free if peak - window < onset < peak + window), None)
        if met is not None:
            hits += 1
            if version == "v2025":
                free.remove(met)
    union = len(onsets) + len(peaks) - hits
    return hits / union if union else None


def chance(
    onsets: Sequence[float], peaks: Sequence[float], fps: float, duration_s: float, version: Version = "v2025"
) -> float | None:
    """Mean score of the onsets shifted in a circle of `duration_s` seconds by 1/101, ..., 100/101 of it; None as there.

    What is shifted past the end comes in at the start.
    """
    if not duration_s > 0:
        raise ValueError(f"duration_s must be positive, got {duration_s}")
    scores = []
    for shift in range(1, SHIFTS + 1):
        turned = sorted((onset + duration_s * shift / (SHIFTS + 1)) % duration_s for onset in onsets)
        score = av_align(turned, peaks, fps, version)
        if score is not None:
            scores.append(score)
    return sum(scores) / len(scores) if scores else None


def align(
    onsets: Sequence[float], peaks: Sequence[float], fps: float, duration_s: float, version: Version = "v2025"
) -> Alignment:
    """The score with its counts and its chance level; arguments as of `av_align` and `chance`."""
    score = av_align(onsets, peaks, fps, version)
    level = chance(onsets, peaks, fps, duration_s, version)
    return Alignment(version, score, len(onsets), len(peaks), level)
