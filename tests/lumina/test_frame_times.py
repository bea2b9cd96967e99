from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lumina.frame_times import pick_frames, pick_indices, span_of, times_within

VFR = [*(index / 30 for index in range(30)), *(1 + index / 2 for index in range(10))]
"""30 frames in the first second, then one every half."""


def shown(stamps: list[float], times: list[float], interval: float) -> list[int]:
    return [index for _, index in pick_frames(times, ((stamp, at) for at, stamp in enumerate(stamps)), interval)]


def test_slow_clips_repeat_frames() -> None:
    assert pick_indices([0, 0.25, 0.5, 0.75, 1.0], fps=2, num_frames=4) == [0, 0, 1, 2, 2]
    with pytest.raises(ValueError, match="fps must be positive"):
        pick_indices([0], fps=0, num_frames=4)


@given(fps=st.fractions(1, 240, max_denominator=1001), rate=st.fractions(1, 60), count=st.integers(1, 200))
@example(fps=Fraction(1), rate=Fraction(60), count=1)
def test_a_constant_rate_is_rounded_as_released(fps: Fraction, rate: Fraction, count: int) -> None:
    times = [step / rate for step in range(40)]
    # Stamps are floats: what lies within a microsecond of a tie is one.
    assume(all(not 0 < abs(time * fps % 1 - Fraction(1, 2)) / fps < Fraction(2, 10**6) for time in times))
    wanted = []
    for time in times:
        if (index := round(time * fps)) >= count:
            break
        wanted.append(index)
    assert pick_indices([float(time) for time in times], float(fps), count) == wanted


def test_a_frame_stands_until_the_next_one() -> None:
    assert shown(VFR, [1.0, 1.125, 1.25, 1.375, 1.5, 1.75, 2.0], 1 / 30) == [30, 30, 30, 30, 31, 31, 32]
    assert shown(VFR, [0.125, 0.5, 0.875], 1 / 30) == [4, 15, 26]
    assert times_within([0, 1, 5.4, 5.9, 6.0], 6.0, 1 / 30) == [0, 1, 5.4, 5.9]


def test_before_the_first_and_behind_the_last_it_is_that_frame() -> None:
    assert shown([1.0, 2.0], [0.0, 0.2, 9.0, 10.0], 1.0) == [0, 0, 1, 1]
    assert shown([], [0.0], 1.0) == []


def test_no_frame_is_taken_that_tells_nothing() -> None:
    seen = []

    def frames() -> object:
        for index in range(100):
            seen.append(index)
            yield index / 10, index

    assert [index for _, index in pick_frames([0.3, 0.5], frames(), 0.1)] == [3, 5]  # type: ignore[arg-type]
    assert seen == list(range(7))


@given(
    stamps=st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True).map(sorted),
    times=st.lists(st.floats(0, 12), min_size=1, max_size=20).map(sorted),
    interval=st.floats(0.001, 1),
)
def test_the_frame_is_the_last_that_has_begun_or_begins_at_once(
    stamps: list[int], times: list[float], interval: float
) -> None:
    seconds = [stamp / 1000 for stamp in stamps]
    picked = shown(seconds, times, interval)
    assert picked == sorted(picked)
    for time, index in zip(times, picked, strict=True):
        assert index == 0 or seconds[index] <= time + interval / 2 + 1e-6
        assert index == len(seconds) - 1 or seconds[index + 1] >= time + interval / 2 - 1e-6


@given(cut=st.integers(1, 99), fps=st.sampled_from([24.0, 25.0, 30000 / 1001, 60.0]), off=st.floats(-0.4, 0.4))
def test_spans_side_by_side_share_no_frame(cut: int, fps: float, off: float) -> None:
    stamps = [index / fps for index in range(100)]
    at = (cut + off) / fps
    assert span_of(stamps, 0, at, 1 / fps) == range(cut)
    assert span_of(stamps, at, 100 / fps, 1 / fps) == range(cut, 100)


def test_a_span_in_a_gap_has_the_frame_that_stands() -> None:
    assert span_of(VFR, 1.6, 1.9, 1 / 30) == range(31, 32)
    assert span_of(VFR, 99, 100, 1 / 30) == range(39, 40)
