"""Whether clips move as they were asked to: measured motion by asked speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.evaluation.subsets import interval, resample, weighted_mean
from lumina.evaluation.summary import Results, interval_json
from pipelines.reports.page.comparison import Cell, interval_text, number_text
from pipelines.reports.page.evaluated import Evaluated

_ASKED, _MEASURED = "shapes/asked_speed", "shapes/measured_speed"
_FIGURES = ("shapes/speed_rank_corr", "offline/dynamic_degree_dis", "offline/flow_abs_mean_dis")


@dataclass(frozen=True)
class MotionTable:
    """Rows of motion, one column for each evaluation."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    told: str
    """The motion score that the model was given, in words."""
    by_speed: bool
    """Whether the prompts ask for speeds."""


def motion_table(columns: Sequence[Evaluated]) -> MotionTable | None:
    """Measured speed by asked speed, then what tells of motion in general; None where nothing of it was measured."""
    rows = []
    speeds = sorted({_speed(row) for one in columns for row in one.rows if _ASKED in row})
    for speed in speeds:
        count = sum(_speed(row) == speed for row in columns[0].rows)
        label = f"asked: {_word(speed)}, {count} clips"
        rows.append((label, tuple(_measured(one, speed) for one in columns)))
    for name in _FIGURES:
        if any(name in one.figures for one in columns):
            cells = [one.figures.get(name, {}) for one in columns]
            rows.append((name, tuple(Cell(number_text(c.get("value")), interval_text(c), False) for c in cells)))
    if not rows:
        return None
    return MotionTable(tuple(one.title for one in columns), tuple(rows), _told(columns[-1].config), bool(speeds))


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
    results = one.results()
    if _MEASURED not in results.columns or _ASKED not in results.columns:
        return Cell("–", "", False)
    asked = np.nan_to_num(results.columns[_ASKED], nan=0.0)
    values = np.where(np.isclose(asked, speed), results.columns[_MEASURED], np.nan)
    units = int((~np.isnan(values)).any(axis=1).sum())
    if not units:
        return Cell("–", "", False)
    draws = weighted_mean(_counts(results, one.config), values)
    confidence = float(one.content.get("confidence", 0.95))
    found = interval_json(interval(float(np.nanmean(values)), draws, units, confidence))
    return Cell(number_text(found["value"]), interval_text(found), False)


def _counts(results: Results, config: Mapping[str, Any]) -> np.ndarray:
    return resample(
        results.prompt_ids, int(config.get("seed", 0)), int(config.get("resamples", 10_000)), results.strata
    )


def _told(config: Mapping[str, Any]) -> str:
    sampler = config.get("sampler", {})
    return (
        f"{_schedule(sampler.get('motion'))}; the negative side of guidance {_schedule(sampler.get('negative_motion'))}"
    )


def _schedule(steps: Sequence[tuple[float, float | str]] | None) -> str:
    if not steps:
        return "unknown"
    return ", then ".join(_score_text(value) + (f" from t = {t:g}" if t else "") for t, value in steps)


def _score_text(value: float | str) -> str:
    if isinstance(value, str):
        return f"as the {value} side"
    return "none" if value < 0 else f"{value:g}"
