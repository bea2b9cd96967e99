"""Numbers as people read them."""

from __future__ import annotations

from lumina.formats import counted, duration, figure, interval, quantity, size


def test_numbers_are_short_and_have_their_units() -> None:
    assert [duration(s) for s in (0.4204, 0.9996, 12.3, 59.97, 185, 7620, -185)] == [
        "420 ms", "1 s", "12.3 s", "60 s", "3 min 05 s", "2 h 07 min", "−3 min 05 s",
    ]  # fmt: skip
    assert [size(n) for n in (0, 560, 999.6, 3_400, 999_700, 1.2e12)] == [
        "0 B", "560 B", "1 kB", "3.4 kB", "1 MB", "1.2 TB",
    ]  # fmt: skip
    assert [quantity(86_400), quantity(7)] == ["86.4 k", "7"]
    assert [figure(n) for n in (0.8123, -12.34, 123.4, None)] == ["0.812", "−12.3", "123", "–"]
    assert [figure(n, sign=True) for n in (0.5, -0.25, 0.0001)] == ["+0.500", "−0.250", "0"]
    assert [interval(0.1, 0.2), interval(-0.1, 0.2, sign=True), interval(None, 1)] == [
        "[0.100, 0.200]", "[−0.100, +0.200]", "",
    ]  # fmt: skip
    assert [counted(1, "clip"), counted(1234, "clip"), counted(2, "status", "statuses")] == [
        "1 clip", "1,234 clips", "2 statuses",
    ]  # fmt: skip
