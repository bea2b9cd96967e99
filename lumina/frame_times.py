"""Sampling times: which frame of a film is on the screen at a time.

Times are seconds from the film's first frame. A frame is there from its stamp until the next one begins. THE rule of
the project: at time t, the frame that is there at t + d/2, where d is the film's usual interval between two frames. On
a film of constant rate that is the frame nearest to t, index = round(t * fps) with halves to the even one, as the
released motion script picks; in a gap of a film of variable rate it is the frame that still stands.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TypeVar

Frame = TypeVar("Frame")
_TIE_S = 1e-6


def times_within(times_s: Iterable[float], duration_s: float, interval_s: float) -> list[float]:
    """Those of the ascending `times_s` at which a film of this length still shows a frame of its own.

    Args:
        times_s: seconds from the film's start.
        duration_s: when its last frame ends.
        interval_s: usual seconds from one frame to the next, above 0.
    """
    if not interval_s > 0:
        raise ValueError(f"interval_s must be positive, got {interval_s}")
    return list(takewhile(lambda time: not _is_taken(duration_s, time, interval_s), times_s))


def pick_frames(
    times_s: Sequence[float], frames: Iterable[tuple[float, Frame]], interval_s: float
) -> Iterator[tuple[float, Frame]]:
    """The frame on the screen at each of the ascending `times_s`, as (stamp, frame); repeated where it stands longer.

    Takes no more of `frames`, (stamp, frame) with ascending stamps, than tells the last of them. Before the first and
    after the last frame it is that one; nothing if there is none.
    """
    waiting = deque(times_s)
    current: tuple[float, Frame] | None = None
    for frame in frames:
        while current is not None and waiting and not _is_taken(frame[0], waiting[0], interval_s):
            waiting.popleft()
            yield current
        if not waiting:
            return
        current = frame
    if current is not None:
        yield from (current for _ in waiting)


def pick_indices(times_s: Sequence[float], fps: float, num_frames: int) -> list[int]:
    """Indices of the frames of a film of constant rate at the ascending `times_s`, as far as they fall into it."""
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    inside = times_within(times_s, num_frames / fps, 1 / fps)
    return [index for _, index in pick_frames(inside, ((index / fps, index) for index in range(num_frames)), 1 / fps)]


def span_of(stamps_s: Sequence[float], start_s: float, end_s: float, interval_s: float) -> range:
    """Indices of the frames of a span: from the one on the screen at its start to the last that begins before its end,
    both give or take half an interval, so that spans side by side share no frame of a constant rate."""
    half = interval_s / 2
    first = bisect_right(stamps_s, start_s + half) - 1
    stop = bisect_left(stamps_s, end_s - half)
    return range(max(first, 0), max(stop, 0))


def _is_taken(stamp_s: float, time_s: float, interval_s: float) -> bool:
    """Whether a frame that begins at `stamp_s` is taken at a time, rather than the one before it."""
    late = stamp_s - time_s - interval_s / 2
    if abs(late) < _TIE_S:
        return round(stamp_s / interval_s) % 2 == 0
    return late < 0
