"""Metrics of system prompts and checkpoints side by side: tables and intervals of the run page, with Holm's correction.

What differs by more than chance is told by a paired bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.evaluation.metrics import Estimate
from lumina.evaluation.selection import Figure, Selection
from lumina.evaluation.subsets import compare, holm, resample, weighted_mean
from lumina.evaluation.subsets import interval as bootstrap_interval
from lumina.evaluation.summary import interval_json
from lumina.formats import figure, interval
from lumina.pages.charts import Forest, Interval
from lumina.pages.page import Cell
from pipelines.reports.evaluations import Evaluated

_CONFIDENCE, _RESAMPLES = 0.95, 10_000
_ASKED, _MEASURED = "shapes/asked_speed", "shapes/measured_speed"
_MOTION = ("shapes/speed_rank_corr", "offline/dynamic_degree_dis", "offline/flow_abs_mean_dis")


@dataclass(frozen=True)
class FigureTable:
    """Some evaluations side by side."""

    columns: tuple[str, ...]
    rows: list[list[Cell]]
    content: Mapping[str, Any]
    """Of the first one's `metrics.json`."""
    confidence: float
    claims: int
    """Differences that Holm's correction is over; 0 where they cannot be told."""


def figure_table(
    columns: Sequence[Evaluated], *, changes: bool = False, first_named: Iterable[str] = (), chosen: Iterable[str] = ()
) -> FigureTable:
    """Every metric of the columns, all held against the first.

    Args:
        columns: on the same prompts and noises.
        changes: add a column with the stored change from the first to the second, as `evaluate_final` measured it.
        first_named: metrics that stand above the others: those of the score.
        chosen: titles of columns that have a star.
    """
    first = columns[0]
    claims = significant(columns)
    names = list(dict.fromkeys(name for column in columns for name in column.figures))
    above = sorted(set(first_named) & set(names))
    meaning = first.content.get("meaning", {})
    rows = []
    for name in [*above, *(name for name in names if name not in above)]:
        marked = [not changes and claims.get((name, k), False) for k in range(len(columns))]
        cells = [_cell(one.figures.get(name), differs) for one, differs in zip(columns, marked, strict=True)]
        if changes:
            change = first.content.get("difference", {}).get(name)
            cells.append(_cell(change, claims.get((name, 1), False), sign=True))
        rows.append([Cell(name, str(meaning.get(name, ""))), *cells])
    starred = set(chosen)
    titles = (f"★ {one.title}" if one.title in starred else one.title for one in columns)
    return FigureTable((*titles, *["change"] * changes), rows, first.content, _confidence(first), len(claims))


def significant(columns: Sequence[Evaluated]) -> dict[tuple[str, int], bool]:
    """(metric, column) to whether it differs from the first column, all claims together at the stated confidence.

    Empty where the columns are not on the same prompts and noises, or there is one alone.

    Raises:
        StoreError: rows are absent.
    """
    if len(columns) < 2:
        return {}
    drawn = [one.draws(*_draws(columns[0].config)) for one in columns]
    if any(design != drawn[0][0] for design, _ in drawn):
        return {}
    found = [estimates for _, estimates in drawn]
    names = [name for name in found[0] if all(name in one for one in found)]
    keys = [(name, k) for name in names for k in range(1, len(columns))]
    adjusted = holm([_p(found[0][name], found[k][name]) for name, k in keys])
    return {key: p <= 1 - _confidence(columns[0]) for key, p in zip(keys, adjusted, strict=True)}


def _p(a: Estimate, b: Estimate) -> float:
    values, draws = np.array([a.value, b.value]), np.stack([a.draws, b.draws])
    return compare(["a", "b"], values, draws, min(a.units, b.units), value_range=a.values).differences[0].p


def _draws(config: Mapping[str, Any]) -> tuple[int, int]:
    return int(config.get("seed", 0)), int(config.get("resamples", _RESAMPLES))


def _confidence(one: Evaluated) -> float:
    return float(one.content.get("confidence", _CONFIDENCE))


def _cell(found: Figure | None, differs: bool = False, sign: bool = False) -> Cell:
    found = found or {}
    bounds = interval(found.get("low"), found.get("high"), sign)
    return Cell(figure(found.get("value"), sign), bounds, "differs" if differs else "")


def score_forest(selection: Selection) -> Forest:
    """The score of every source, each with its own interval."""
    chosen = dict.fromkeys(selection.sources, ("chosen", "good"))
    return Forest([_interval(row.source, row.score, *chosen.get(row.source, ("", ""))) for row in selection.table])


def gap_forest(selection: Selection) -> Forest | None:
    """How far every other source lies below the best, with bounds that hold for all at once; None without others."""
    verdicts = {True: ("cannot be told apart", ""), False: ("significantly worse", "bad")}
    rows = [
        _interval(row.source, row.below_best, *verdicts[row.in_best_set])
        for row in selection.table
        if row.below_best is not None
    ]
    return Forest(rows, gaps=True) if rows else None


def _interval(source: str, found: Figure, verdict: str, style: str) -> Interval:
    return Interval(source, found["value"] or 0.0, found["low"], found["high"], verdict, style)


@dataclass(frozen=True)
class MotionTable:
    """Whether clips move as they were asked to, one column for each evaluation."""

    columns: tuple[str, ...]
    rows: list[list[str | Cell]]
    given: str
    """The motion score that the model was given, in words."""
    by_speed: bool
    """Whether the prompts ask for speeds."""


def motion_table(columns: Sequence[Evaluated]) -> MotionTable | None:
    """Measured speed by asked speed, then what tells of motion in general; None where nothing of it was measured."""
    rows: list[list[str | Cell]] = []
    speeds = sorted({_speed(row) for one in columns for row in one.rows if _ASKED in row})
    for speed in speeds:
        count = sum(_speed(row) == speed for row in columns[0].rows)
        rows.append([f"asked: {_word(speed)}, {count} clips", *(_measured(one, speed) for one in columns)])
    measured = [name for name in _MOTION if any(name in one.figures for one in columns)]
    rows += [[name, *(_cell(one.figures.get(name)) for one in columns)] for name in measured]
    if not rows:
        return None
    sampler = columns[-1].config.get("sampler", {})
    given = f"{_schedule(sampler.get('motion'))}; the negative side of guidance "
    given += _schedule(sampler.get("negative_motion"))
    return MotionTable(tuple(one.title for one in columns), rows, given, bool(speeds))


def _speed(row: Mapping[str, Any]) -> float:
    """The asked speed; clips that shall stay have none in their rows, so theirs is 0."""
    asked = row[_ASKED]
    return 0.0 if asked is None or np.isnan(asked) else float(asked)


def _word(speed: float) -> str:
    from lumina.shapes import SPEEDS

    words = {round((low + high) / 2, 9): word for word, (low, high) in SPEEDS.items()}
    word = "still" if not speed else words.get(round(speed, 9), "")
    return f"{word} ({speed:.3g})".strip()


def _measured(one: Evaluated, speed: float) -> Cell:
    results = one.results
    if not {_MEASURED, _ASKED} <= set(results.columns):
        return _cell(None)
    asked = np.nan_to_num(results.columns[_ASKED], nan=0.0)
    values = np.where(np.isclose(asked, speed), results.columns[_MEASURED], np.nan)
    units = int((~np.isnan(values)).any(axis=1).sum())
    if not units:
        return _cell(None)
    draws = weighted_mean(resample(results.prompt_ids, *_draws(one.config), results.strata), values)
    return _cell(interval_json(bootstrap_interval(float(np.nanmean(values)), draws, units, _confidence(one))))


def _schedule(steps: Sequence[tuple[float, float | str]] | None) -> str:
    def text(value: float | str) -> str:
        if isinstance(value, str):
            return f"as the {value} side"
        return "none" if value < 0 else f"{value:g}"

    return ", then ".join(text(value) + (f" from t = {t:g}" if t else "") for t, value in steps or ()) or "unknown"
