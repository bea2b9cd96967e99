from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.clock import Clock, ClockError, find_clock, timeline

F = Fraction
EVEN = [F(index, 25) for index in range(20)]
UNEVEN = [F(index * index, 100) for index in range(20)]
LATE = [*EVEN[2:], None, None]
"""Times of decoding as a decoder with two reordered frames hands them on."""
JUMBLED = [EVEN[index ^ 1] for index in range(20)]
NONE = [None] * 20
TELECINED = [F(fields, 50) for fields in (0, 2, 5, 7, 10, 12, 15, 17, 20, 22)]
SPARSE = [stamp if index % 7 == 3 else None for index, stamp in enumerate(EVEN)]


@pytest.mark.parametrize(
    ("container", "pts", "dts", "clock"),
    [
        ("mov", EVEN, EVEN, "pts"),
        ("matroska", UNEVEN, NONE, "pts"),
        ("matroska", [F(0), F(0), *UNEVEN[2:]], NONE, "pts"),
        ("mpegts", SPARSE, NONE, "25"),
        ("mov", JUMBLED, LATE, "25"),
        ("avi", JUMBLED, LATE, "25"),
        ("avi", [*UNEVEN[1:], F(9)], UNEVEN, "dts"),
        ("asf", UNEVEN, UNEVEN, "dts"),
        ("mpeg", EVEN, EVEN, "25"),
        ("mpeg", SPARSE, NONE, "25"),
        ("mxf", JUMBLED, LATE, "25"),
        ("mpeg", TELECINED, TELECINED, "pts"),
    ],
)
def test_a_clock_is_as_good_as_its_container(
    container: str, pts: list[F | None], dts: list[F | None], clock: str
) -> None:
    assert str(find_clock(container, True, pts, dts, [F(25), F(30)])) == clock


@pytest.mark.parametrize(
    ("container", "pts", "dts", "message"),
    [
        ("mpeg", UNEVEN, UNEVEN, "mpeg does not store when these frames are shown, and they are not evenly spaced"),
        ("avi", JUMBLED, [*UNEVEN[2:], None, None], "avi does not store"),
        ("mpegts", EVEN[10:] + EVEN[:10], EVEN[10:] + EVEN[:10], "the time stamps jump back"),
        ("mxf", NONE, NONE, "mxf does not store"),
    ],
)
def test_times_that_cannot_be_told_are_refused(
    container: str, pts: list[F | None], dts: list[F | None], message: str
) -> None:
    with pytest.raises(ClockError, match=message):
        find_clock(container, True, pts, dts, [F(25), None])


def test_a_raw_stream_has_what_its_codec_states() -> None:
    assert str(find_clock("h264", False, NONE, NONE, [F(60), F(25), F(60)])) == "60"
    for container, stated in (("mjpeg", None), ("h263", F(30000, 1001))):
        with pytest.raises(ClockError, match="the raw stream states no times"):
            find_clock(container, False, NONE, NONE, [stated, F(25), F(25)])


def test_clocks_are_kept_as_text() -> None:
    for clock in (Clock("pts"), Clock("dts"), Clock("rate", F(30000, 1001)), Clock("rate", F(25))):
        assert Clock.parse(str(clock)) == clock
    assert Clock("rate", F(50)).stamp(25, None, F(9)) == F(1, 2)
    assert Clock("dts").stamp(3, F(1), F(2)) == 2
    with pytest.raises(ClockError, match="frame 3 has no time stamp"):
        Clock("pts").stamp(3, None, F(2))


@given(
    rate=st.sampled_from([F(24), F(24000, 1001), F(30000, 1001), F(60), F(120)]),
    unit=st.sampled_from([1000, 90000, 12288]),
    start=st.integers(0, 10**9),
    count=st.integers(2, 400),
)
def test_rounded_stamps_of_a_constant_rate_give_it_back(rate: F, unit: int, start: int, count: int) -> None:
    stamps = [F(start + round(index / rate * unit), unit) for index in range(count)]
    line = timeline(stamps, None, [rate, F(1000)])
    assert line.is_constant
    assert line.fps == float(rate)
    assert line.interval_s == float(1 / rate)
    assert line.end_s == pytest.approx(float(count / rate), abs=0.002)


def test_a_variable_rate_is_an_average() -> None:
    line = timeline(UNEVEN, F(1, 10), [F(25)])
    assert not line.is_constant
    assert line.fps == pytest.approx(19 / 3.61)
    assert line.end_s == pytest.approx(3.71)
    assert timeline(UNEVEN, None, []).end_s == pytest.approx(3.61 + line.interval_s)


def test_one_frame_lasts_as_long_as_is_said() -> None:
    assert timeline([F(7)], F(5), [F(25)]).end_s == 5
    assert timeline([F(7)], None, [F(25)]).end_s == 0.04
    with pytest.raises(ClockError, match="one frame"):
        timeline([F(7)], None, [None])
