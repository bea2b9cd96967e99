"""Onset F1: detected onsets against events that are known, each onset for one event at most.

With E events, O onsets and a largest one-to-one matching of H pairs that are at most 50 ms apart:

    precision = H / O,  recall = H / E,  F1 = 2 H / (E + O)

Nothing found is never wrong (precision 1 for O = 0), and where there is nothing to find nothing is missed (recall 1 for
E = 0); so a silent clip that stays silent has F1 1, and one that does not has 0. Over a corpus the micro F1 adds up E,
O and H first: there, silent clips count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from lumina.video_to_audio.evaluation.loudness import dbfs

TOLERANCE_S = 0.05
"""Seconds between an event and its onset at most."""
_LISTEN_S = 0.05
"""Seconds after an onset in which something must be heard."""
_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class OnsetCounts:
    """Of one clip, or, added up, of many."""

    events: int
    onsets: int
    hits: int

    @property
    def precision(self) -> float:
        """Share of the onsets that are an event's, 0..1; 1 of none."""
        return self.hits / self.onsets if self.onsets else 1.0

    @property
    def recall(self) -> float:
        """Share of the events that were found, 0..1; 1 of none."""
        return self.hits / self.events if self.events else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0..1; 1 where there is neither an event nor an onset."""
        both = self.events + self.onsets
        return 2 * self.hits / both if both else 1.0


def match(events: Sequence[float], onsets: Sequence[float], tolerance_s: float = TOLERANCE_S) -> list[tuple[int, int]]:
    """A largest set of pairs (event, onset) at most `tolerance_s` apart, indices into ascending seconds.

    The earliest event takes the earliest onset that it may: with one tolerance for all, no other matching is larger.

    Raises ValueError for times that do not ascend.
    """
    for name, times in (("events", events), ("onsets", onsets)):
        if any(later < earlier for earlier, later in pairwise(times)):
            raise ValueError(f"{name} must ascend in time")
    pairs, event, onset = [], 0, 0
    while event < len(events) and onset < len(onsets):
        late = onsets[onset] - events[event]
        if abs(late) <= tolerance_s + _ROUNDING_S:
            pairs.append((event, onset))
        # Of a pair both go on, else the earlier one, which no later one can reach.
        event += late >= -tolerance_s - _ROUNDING_S
        onset += late <= tolerance_s + _ROUNDING_S
    return pairs


def count(events: Sequence[float], onsets: Sequence[float], tolerance_s: float = TOLERANCE_S) -> OnsetCounts:
    """Counts of one clip; arguments as of `match`."""
    return OnsetCounts(len(events), len(onsets), len(match(events, onsets, tolerance_s)))


def count_some(
    events: Sequence[float], wanted: Sequence[bool], onsets: Sequence[float], tolerance_s: float = TOLERANCE_S
) -> OnsetCounts:
    """Counts of the events that are `wanted`, such as those that are seen.

    Onsets of the other events are neither right nor wrong: they are left out.
    """
    some = [time for time, one in zip(events, wanted, strict=True) if one]
    others = [time for time, one in zip(events, wanted, strict=True) if not one]
    pairs = match(some, onsets, tolerance_s)
    taken = {onset for _, onset in pairs}
    left = [time for index, time in enumerate(onsets) if index not in taken]
    return OnsetCounts(len(some), len(onsets) - len(match(others, left, tolerance_s)), len(pairs))


def audible(onsets: Sequence[float], wave: Tensor, rate: int, least_dbfs: float) -> list[float]:
    """The onsets that are heard: the 50 ms of a wave [n] from there on have an RMS of `least_dbfs` or more.

    The detector looks at changes in dB over the clip's own range, so it finds onsets in a hiss that nobody hears.
    """
    length = round(_LISTEN_S * rate)

    def after(time: float) -> Tensor:
        # A frame may end beyond the wave.
        first = max(0, min(round(time * rate), len(wave) - length))
        return wave[first : first + length]

    return [time for time in onsets if dbfs(after(time)) >= least_dbfs]
