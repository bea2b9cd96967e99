"""SVG charts of pages: round ticks, axes in percent of the drawing, curves and intervals, drawn by `macros.html.j2`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLORS = 8
"""Colours that a colour-blind reader can tell apart, numbered from 0; what is beyond shares number `COLORS`, a grey."""
_POINTS = 400

Points = Sequence[tuple[float, float]]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least` > 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _linear_ticks(low: float, high: float) -> list[float]:
    step = nice_step((high - low) / 5)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Between 2 and 7 round numbers, of 1, 2, 5 times powers of ten; finer where these are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(n / 10 for n in range(10, 100, 2))):
        found = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(found) >= 3:
            return found if len(found) <= 7 else found[:: -(-len(found) // 7)]
    return [low, high]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along a drawing, `log` for positive ones on a logarithmic scale."""

    low: float
    high: float
    label: str = ""
    log: bool = False

    def at(self, value: float) -> float:
        """Place of a value in percent of the way."""
        low, high, value = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return 100 * (value - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Some round numbers: their places, and how they are written."""
        values = _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        return [(self.at(value), f"{value:.6g}".replace("-", "−")) for value in values]


@dataclass(frozen=True)
class Line:
    """One curve of a chart."""

    name: str
    color: int
    points: Points
    dashed: bool = False
    dots: Points = ()
    """Single points beside the curve."""
    mark: float | None = None
    """Where a vertical line stands."""
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Curves with their axes."""

    title: str
    label: str
    """What it shows, for who does not see it."""
    x: Axis
    y: Axis
    lines: Sequence[Line]

    def places(self, points: Points) -> list[tuple[float, float]]:
        """Where points are drawn in a box of 100 x 100, whose y goes down."""
        return [(self.x.at(x), 100 - self.y.at(y)) for x, y in points]


def thinned(series: Mapping[int, float]) -> list[tuple[int, float]]:
    """The finite points in order, of many some: the last, where the curve ends, is always there."""
    steps = sorted(step for step, value in series.items() if math.isfinite(value))
    every = -(-len(steps) // _POINTS)
    return [(step, series[step]) for step in sorted({*steps[:: every or 1], *steps[-1:]})]


@dataclass(frozen=True)
class Interval:
    """A value and its bounds, None where there are none, with what is said of it."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    verdict: str = ""
    style: str = ""
    """`good`, `bad` or nothing: of the verdict."""
    exact: bool = False
    """Counted: a dot without bounds."""


@dataclass(frozen=True)
class Forest:
    """Intervals under each other on one axis."""

    rows: Sequence[Interval]
    gaps: bool = False
    """Whether they are differences: zero is marked, and numbers have signs."""

    @property
    def axis(self) -> Axis:
        """All bounds with a margin."""
        ends = [end for row in self.rows for end in (row.value, row.low, row.high) if end is not None]
        low, high = min([*ends, *[0.0] * self.gaps]), max([*ends, *[0.0] * self.gaps])
        margin = 0.06 * (high - low) or 0.5
        return Axis(low - margin, high + margin)
