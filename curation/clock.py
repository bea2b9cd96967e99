"""Presentation timestamps: when each decoded frame of a film is shown, whatever its container says of that.

Some containers store a time of display for each frame (mp4, Matroska, MPEG-TS), some only the order in which frames are
to be decoded (AVI, ASF), some a few times here and there (MPEG-PS), and raw streams none. What a decoder makes up for
the rest is wrong for reordered frames, so a clock is believed only as far as its container can tell, and a film whose
times cannot be told is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Literal

Stamps = Sequence[Fraction | None]

STAMPED = frozenset({"mov", "matroska", "mpegts", "flv", "live_flv", "nut", "gif", "apng", "ivf"})
"""Containers (first name of the demuxer) that store when each frame is shown."""
_ORDERED = frozenset({"avi", "asf"})
"""Containers that store when each frame is decoded: the same where no frame is reordered."""
_RATELESS = frozenset({"h261", "h263"})
"""Raw streams whose frames carry times of their own that no decoder here hands on."""
_MOST_FPS = 1000
_ROUNDING_S = Fraction(3, 2000)
"""Stamps in milliseconds, one half off each."""


class ClockError(ValueError):
    """The file does not say when its frames are shown."""


@dataclass(frozen=True)
class Clock:
    """How to tell a frame's time: from its stamp of display or of decoding, or by counting."""

    kind: Literal["pts", "dts", "rate"]
    rate: Fraction | None = None
    """Frames per second where they are counted."""

    @staticmethod
    def parse(text: str) -> Clock:
        """Read a clock back from its text."""
        return Clock(text) if text in ("pts", "dts") else Clock("rate", Fraction(text))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.kind if self.rate is None else str(self.rate)

    def stamp(self, index: int, pts: Fraction | None, dts: Fraction | None) -> Fraction:
        """Time of a frame in seconds, from wherever the file counts; ClockError if its stamp is missing."""
        found = index / self.rate if self.rate is not None else pts if self.kind == "pts" else dts
        if found is None:
            raise ClockError(f"frame {index} has no time stamp")
        return found


def find_clock(container: str, has_stamps: bool, pts: Stamps, dts: Stamps, rates: Iterable[Fraction | None]) -> Clock:
    """The clock of a film.

    Args:
        container: first name of the demuxer.
        has_stamps: whether the format has time stamps at all.
        pts: time of display of each decoded frame in the order shown, as far as known.
        dts: time of decoding of what the decoder was fed when it gave the frame.
        rates: frames per second as stated, the codec's first. A demuxer makes up one for a raw stream.

    Raises:
        ClockError: no rule tells the times.
    """
    of_codec, *_ = rates = tuple(rates)
    if not has_stamps:
        if container in _RATELESS or not of_codec:
            raise ClockError("the raw stream states no times for its frames: put it into a container (mp4, mkv)")
        return Clock("rate", of_codec)
    stated = _plausible(rates)
    if container in STAMPED and _ascends(pts):
        return Clock("pts")
    if container in _ORDERED and _ascends(dts) and len(set(dts)) == len(dts):
        return Clock("dts")
    for known in (pts, dts):
        for rate in stated:
            if is_even(known, rate):
                return Clock("rate", rate)
    if stated and _ascends(pts) and _is_telecined(pts, stated[0]):
        return Clock("pts")
    if any(second < first for first, second in pairwise([stamp for stamp in dts if stamp is not None])):
        raise ClockError("the time stamps jump back: files put behind one another, or damage")
    raise ClockError(
        f"{container} does not store when these frames are shown, and they are not evenly spaced: write it anew as mp4 "
        "or mkv from the original"
    )


def _plausible(rates: Iterable[Fraction | None]) -> list[Fraction]:
    return [rate for rate in rates if rate and 0 < rate <= _MOST_FPS]


def _ascends(stamps: Stamps) -> bool:
    known = [stamp for stamp in stamps if stamp is not None]
    return len(known) == len(stamps) and all(first <= second for first, second in pairwise(known))


def is_even(stamps: Stamps, rate: Fraction) -> bool:
    """Whether the stamps that are known lie where frames of a constant rate have them, rounding apart."""
    known = [(index, stamp) for index, stamp in enumerate(stamps) if stamp is not None]
    if not known:
        return False
    first, origin = known[0]
    return all(abs(stamp - origin - (index - first) / rate) <= _ROUNDING_S for index, stamp in known)


def _is_telecined(stamps: Stamps, rate: Fraction) -> bool:
    """Whether frames are shown for two or three fields each, as film is on NTSC discs."""
    known = [stamp for stamp in stamps if stamp is not None]
    return all(Fraction(9, 10) <= (second - first) * rate <= Fraction(8, 5) for first, second in pairwise(known))


@dataclass(frozen=True)
class Timeline:
    """When the frames of a film are shown, in seconds from its first."""

    stamps_s: tuple[float, ...]
    end_s: float
    """When the last frame ends."""
    interval_s: float
    """Usual seconds from one frame to the next."""
    fps: float
    """Frames per second: the constant rate where there is one, else the average."""
    is_constant: bool


def timeline(stamps: Sequence[Fraction], last: Fraction | None, rates: Iterable[Fraction | None]) -> Timeline:
    """The timeline of at least one frame.

    Args:
        stamps: ascending times of all frames, in seconds from wherever the file counts.
        last: how long the last frame stands, where the file says so.
        rates: frames per second as stated.

    Raises:
        ClockError: one frame, and nothing that says how long it is shown.
    """
    offsets = [stamp - stamps[0] for stamp in stamps]
    rate = next((rate for rate in _plausible(rates) if is_even(offsets, rate)), None)
    gaps = [second - first for first, second in pairwise(offsets) if second > first]
    if last and len(offsets) == 1:
        interval, fps = last, 1 / last
    elif rate is not None:
        interval, fps = 1 / rate, rate
    elif gaps:
        interval, fps = Fraction(median(gaps)), len(gaps) / offsets[-1]
    else:
        raise ClockError("one frame, and nothing that says how long it is shown")
    end = offsets[-1] + (last if last and rate is None else interval)
    return Timeline(tuple(map(float, offsets)), float(end), float(interval), float(fps), rate is not None)
