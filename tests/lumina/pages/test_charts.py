"""Axes have a few round numbers whatever the values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lumina.pages.charts import Axis, nice_step


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_linear_axes_have_some_ticks_inside(low: float, width: float) -> None:
    ticks = Axis(low, low + width).ticks
    assert 2 <= len(ticks) <= 7
    assert all(-1e-3 <= place <= 100 + 1e-3 for place, _ in ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.11, 1e6))
def test_logarithmic_axes_have_some_ticks_inside(low: float, ratio: float) -> None:
    ticks = Axis(low, low * ratio, log=True).ticks
    assert 2 <= len(ticks) <= 7
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place, _ in ticks)


def test_steps_are_round() -> None:
    assert [nice_step(value) for value in (0.9, 1.0, 1.1, 3, 7, 0.02)] == [1.0, 1.0, 2.0, 5.0, 10.0, 0.02]
