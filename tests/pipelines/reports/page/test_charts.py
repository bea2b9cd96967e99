"""Axes have a few round numbers whatever the values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.reports.page.charts import linear_ticks, log_ticks

_POSITIVE = st.floats(1e-9, 1e9)


@given(_POSITIVE, st.floats(1.11, 1e6))
def test_logarithmic_axes_have_some_ticks_inside(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(ticks)
    assert all(low <= tick <= low * ratio for tick in ticks)


@given(_POSITIVE)
def test_linear_axes_begin_at_zero(high: float) -> None:
    ticks = linear_ticks(high)
    assert ticks[0] == (0, "0")
    assert 3 <= len(ticks) <= 7
    assert all(0 <= place <= 100 + 1e-6 for place, _ in ticks)
