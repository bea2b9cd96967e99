"""The figures of system prompts and checkpoints side by side, and which differences are more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import compare, holm
from lumina.evaluation.summary import estimates
from pipelines.reports.page.evaluated import Evaluated

_CONFIDENCE, _RESAMPLES = 0.95, 10_000


@dataclass(frozen=True)
class Cell:
    """A figure as text."""

    value: str
    interval: str
    differs: bool
    """From the reference column, after Holm's correction over the whole table."""


@dataclass(frozen=True)
class Row:
    """One metric."""

    metric: str
    meaning: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, drawn on an axis: positions in percent."""

    title: str
    value: str
    interval: str
    at: float
    low: float
    high: float
    verdict: str
    bad: bool


@dataclass(frozen=True)
class Forest:
    """Intervals under each other."""

    whiskers: tuple[Whisker, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float | None
    """Where zero lies, in percent, if it lies on the axis."""


@dataclass(frozen=True)
class Table:
    """Some evaluations side by side."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    prompts: int
    samples: int
    confidence: float
    claims: int
    """Differences that Holm's correction is over; 0 where they cannot be told."""
    heldout: int | None = None
    """Prompts that are captions of held-out clips; None where prompts are no captions."""


def figure_table(columns: Sequence[Evaluated], reference: int, changes: bool, first_named: Iterable[str] = ()) -> Table:
    """Every metric of the columns.

    Args:
        columns: on the same prompts and noises.
        reference: index of the column that the others are held against.
        changes: add a column with the stored change from the first to the second, as `evaluate_final` measured it.
        first_named: metrics that stand above the others: those of the score.
    """
    first = columns[0]
    claims = significant(columns, reference)
    names = list(dict.fromkeys(name for column in columns for name in column.figures))
    above = sorted(set(first_named) & set(names))
    names = [*above, *(name for name in names if name not in above)]
    meaning = first.content.get("meaning", {})
    stored = first.content.get("difference", {}) if changes else {}
    rows = []
    for name in names:
        cells = [_cell(one.figures.get(name), claims.get((name, k), False)) for k, one in enumerate(columns)]
        if changes:
            cells = [_cell(one.figures.get(name), False) for one in columns]
            cells.append(_cell(stored.get(name), claims.get((name, 1 - reference), False), sign=True))
        rows.append(Row(name, str(meaning.get(name, "")), tuple(cells)))
    titles = (*(one.title for one in columns), *(("change",) if changes else ()))
    confidence = float(first.content.get("confidence", _CONFIDENCE))
    prompts, samples = int(first.content.get("prompts", 0)), int(first.content.get("samples", 0))
    heldout = first.content.get("prompts_heldout")
    return Table(titles, tuple(rows), prompts, samples, confidence, len(claims), heldout)


def significant(columns: Sequence[Evaluated], reference: int) -> dict[tuple[str, int], bool]:
    """(metric, column) to whether it differs from the reference, all claims together at the stated confidence.

    Empty where the columns are not on the same prompts and noises, or there is one alone.

    Raises:
        StoreError: rows are absent.
    """
    results = [one.results() for one in columns]
    if len({(one.prompt_ids, one.samples, one.strata) for one in results}) != 1 or len(columns) < 2:
        return {}
    names = [name for name in columns[reference].known() if all(name in one.known() for one in columns)]
    config = columns[0].config
    seed, resamples = int(config.get("seed", 0)), int(config.get("resamples", _RESAMPLES))
    found = [estimates(one, names, seed, resamples) for one in results]
    keys = [(name, k) for name in names for k in range(len(columns)) if k != reference]
    adjusted = holm([_p(found[reference][name], found[k][name]) for name, k in keys])
    level = 1 - float(columns[0].content.get("confidence", _CONFIDENCE))
    return {key: p <= level for key, p in zip(keys, adjusted, strict=True)}


def _p(a: Estimate, b: Estimate) -> float:
    units = min(a.units, b.units)
    values, draws = np.array([a.value, b.value]), np.stack([a.draws, b.draws])
    return compare(["a", "b"], values, draws, units, value_range=a.values).differences[0].p


def score_forest(selection: Mapping[str, Any]) -> Forest:
    """The score of every source, each with its own interval."""
    chosen = set(selection["sources"])
    return _forest(
        [
            (row["source"], row["score"], "chosen" if row["source"] in chosen else "", False)
            for row in selection["table"]
        ]
    )


def gap_forest(selection: Mapping[str, Any]) -> Forest | None:
    """How far every other source lies below the best, with bounds that hold for all at once; None without others."""
    gaps = [row for row in selection["table"] if row["below_best"] is not None]
    if not gaps:
        return None
    return _forest(
        [
            (
                row["source"],
                row["below_best"],
                "cannot be told apart" if row["in_best_set"] else "significantly worse",
                not row["in_best_set"],
            )
            for row in gaps
        ],
        zero=True,
    )


def _forest(rows: Sequence[tuple[str, Mapping[str, float | None], str, bool]], zero: bool = False) -> Forest:
    ends = [end for _, figure, _, _ in rows for end in figure.values() if end is not None]
    low, high = min([*ends, *([0.0] if zero else [])]), max([*ends, *([0.0] if zero else [])])
    margin = 0.06 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    whiskers = []
    for title, figure, verdict, bad in rows:
        value, left, right = (figure.get(key) for key in ("value", "low", "high"))
        whiskers.append(
            Whisker(
                title,
                number_text(value, sign=zero),
                interval_text(figure, sign=zero),
                at(value or 0.0),
                at(low if left is None else left),
                at(high if right is None else right),
                verdict,
                bad,
            )
        )
    return Forest(tuple(whiskers), _ticks(low, high), at(0.0) if zero else None)


def _ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 5)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return tuple((100 * (n * step - low) / (high - low), f"{n * step:.6g}".replace("-", "−")) for n in places)


def _cell(figure: Mapping[str, float | None] | None, differs: bool, sign: bool = False) -> Cell:
    if figure is None:
        return Cell("–", "", False)
    return Cell(number_text(figure.get("value"), sign), interval_text(figure, sign), differs)


def interval_text(figure: Mapping[str, float | None], sign: bool = False) -> str:
    """`[0.812, 0.934]`; empty without bounds."""
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return ""
    return f"[{number_text(low, sign)}, {number_text(high, sign)}]"


def number_text(value: float | None, sign: bool = False) -> str:
    """Three digits behind the point below 10, fewer above; a true minus sign."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return "0" if sign and float(text) == 0 else text.replace("-", "−")
