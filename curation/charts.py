"""Histograms and rankings of the curation page: positions in percent of the drawing, which its template draws.

Sources keep one colour and one order in all charts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lumina.pages.charts import Axis, nice_step

_BINS = 24
_TAIL = 2.0
"""The last bin is open when the largest value is more than so many times the 99 % quantile."""


class Names:
    """A column of few names: numbers with one entry a clip, compared with a name."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.codes: NDArray[np.int64] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)

    def __eq__(self, name: object) -> NDArray[np.bool_]:  # type: ignore[override]
        return self.codes == (self.names.index(str(name)) if name in self.names else -2)

    def __getitem__(self, index: int) -> str:
        return self.names[self.codes[index]]


@dataclass(frozen=True)
class Limit:
    """A value that a rule asks for at least or at most."""

    value: float
    text: str
    of_set: bool
    """Whether the rule is that of one latents set."""


@dataclass(frozen=True)
class Values:
    """What one source brings to a chart."""

    source: str
    color: int
    values: NDArray[np.float64]
    """[n], finite."""
    kept: NDArray[np.bool_]
    """[n]: whether the clip was kept."""
    limits: tuple[Limit, ...] = ()
    note: str = ""
    """Said of its limits."""


@dataclass(frozen=True)
class Bar:
    """One bin: `left` and `width` in percent of the axis, heights in percent of the panel."""

    left: float
    width: float
    kept: float
    aside: float
    """Height of the part that was set aside; it stands on the kept part."""
    title: str


@dataclass(frozen=True)
class Panel:
    """The histogram of one source."""

    source: str
    color: int
    n: int
    bars: tuple[Bar, ...]
    marks: tuple[tuple[float, str], ...]
    """Position in percent and name of the quantiles that are marked."""
    limits: tuple[tuple[float, Limit], ...] = ()
    """Position in percent of those that lie on the axis."""
    note: str = ""


@dataclass(frozen=True)
class Histogram:
    """One panel a source, with common bins and a common height."""

    axis: Axis
    """Its label has quantity and unit, and what the last bin holds where it is open."""
    n: int
    top: int
    """Share of a source's clips, in percent, at the full height of a panel."""
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Segment:
    """The part of one source in a row of a ranking, in percent of the longest row."""

    left: float
    width: float
    color: int
    title: str


@dataclass(frozen=True)
class Ranking:
    """The most frequent values of something that takes few."""

    n: int
    rows: tuple[tuple[str, int, tuple[Segment, ...]], ...]
    """Value, how often it occurs, by source."""


def quantile_index(n: int, q: float) -> int:
    """Index in `n` sorted values of the one nearest to the quantile `q`; n >= 1."""
    return math.floor(q * (n - 1) + 0.5)


def histogram(label: str, unit: str, sources: Sequence[Values], quantiles: Sequence[float] = ()) -> Histogram | None:
    """Bin the values of all sources alike; None where there is no value.

    Args:
        label: quantity and unit of the axis.
        unit: what stands behind a number in a tooltip.
        sources: in the order of the panels; those without a value get no panel.
        quantiles: marked in each panel, in 0..1.
    """
    sources = [source for source in sources if len(source.values)]
    if not sources:
        return None
    edges, is_open = bin_edges(np.concatenate([source.values for source in sources]))
    counted = [[_count(s.values[mask], edges) for mask in (s.kept, ~s.kept)] for s in sources]
    highest = max(
        float((kept + aside).max()) / len(s.values) for s, (kept, aside) in zip(sources, counted, strict=True)
    )
    top = next(step for step in (5, 10, 20, 30, 40, 50, 60, 80, 100) if 100 * highest <= step + 1e-9)
    opened = f"; the last bin holds all from {edges[-2]:.6g} on" if is_open else ""
    axis = Axis(float(edges[0]), float(edges[-1]), label + opened)
    panels = []
    for source, (kept, aside) in zip(sources, counted, strict=True):
        n = len(source.values)
        bars = []
        for index in np.flatnonzero(kept + aside):
            left, right = float(edges[index]), float(edges[index + 1])
            span = f"{left:.6g} or more" if is_open and index == len(kept) - 1 else f"{left:.6g} to {right:.6g}"
            both = int(kept[index] + aside[index])
            span = f"{span} {unit}".rstrip()
            title = f"{source.source}, {span}: {both} clips ({both / n:.1%}), {int(kept[index])} of them kept"
            solid, pale = (100 * 100 * float(part[index]) / n / top for part in (kept, aside))
            bars.append(Bar(axis.at(left), 100 / len(kept), solid, pale, title))
        ordered = np.sort(source.values)
        at = [(q, float(ordered[quantile_index(n, q)])) for q in quantiles]
        marks = tuple((axis.at(min(v, axis.high)), f"{q:.0%} of the clips: {v:.3g} {unit}") for q, v in at)
        limits = tuple((axis.at(one.value), one) for one in source.limits if axis.low <= one.value <= axis.high)
        panels.append(Panel(source.source, source.color, n, tuple(bars), marks, limits, source.note))
    return Histogram(axis, sum(panel.n for panel in panels), top, tuple(panels))


def bin_edges(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Edges [bins + 1] at round numbers that cover `values` [n] (n >= 1), and whether the last bin is open.

    A few huge values would press all others into one bin, so the last bin then takes all above it.
    """
    low, high = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 0.99))
    is_open = usual > 0 and high > _TAIL * usual
    high = usual * 1.1 if is_open else high
    if 0 < low < high / 2:
        low = 0.0
    if high - low <= 1e-9 * max(abs(high), 1):
        margin = 0.1 * abs(low)
        low, high = (low - margin, high + margin) if margin > 1e-7 else (0.0, 1.0)
    step = nice_step((high - low) / _BINS)
    first = math.floor(low / step + 1e-9)
    last = max(math.floor(high / step + 1e-9) + 1, first + 1)
    return np.arange(first, last + 1, dtype=np.float64) * step, is_open


def _count(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts [bins] of values that lie at or above each edge; what lies beyond the last bin is in it."""
    # A value that equals an edge but for rounding belongs above it: 0.3 is not below 3 * 0.1.
    step = float(edges[1] - edges[0])
    bins = np.floor((values - edges[0]) / step + 1e-9).astype(np.int64)
    return np.bincount(np.clip(bins, 0, len(edges) - 2), minlength=len(edges) - 1)


def ranking(
    what: str, counts: Mapping[str, Mapping[str, int]], colors: Mapping[str, int], most: int = 8
) -> Ranking | None:
    """The values of all sources, the most frequent first; None where there is no value.

    Args:
        what: plural of what is counted, since rarer values than the `most` first are summed up as `12 other <what>`.
        counts: source to value to clips.
        colors: source to its colour.
        most: rows.
    """
    by_value: dict[str, Counter[str]] = {}
    for source, values in sorted(counts.items()):
        for value, number in values.items():
            if number:
                by_value.setdefault(value, Counter())[source] = number
    if not by_value:
        return None
    ordered = sorted(by_value.items(), key=lambda item: (-item[1].total(), item[0]))
    rows, rest = ordered[:most], ordered[most:]
    if len(rest) == 1:
        rows += rest
    elif rest:
        rows.append((f"{len(rest)} other {what}", sum((counter for _, counter in rest), Counter())))
    longest = max(counter.total() for _, counter in rows)
    return Ranking(
        sum(counter.total() for _, counter in rows),
        tuple((name, counter.total(), _segments(name, counter, colors, longest)) for name, counter in rows),
    )


def _segments(name: str, counter: Counter[str], colors: Mapping[str, int], longest: int) -> tuple[Segment, ...]:
    segments = []
    start = 0
    for source, count in sorted(counter.items()):
        title = f"{source}, {name}: {count} clips"
        segments.append(Segment(100 * start / longest, 100 * count / longest, colors[source], title))
        start += count
    return tuple(segments)
