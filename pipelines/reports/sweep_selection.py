"""Selections of a sweep's runs side by side: clips and hours that each keeps, and what its rules remove.

The clips are a sample of what their sources might give, and the same ones in all runs, so that differences are paired.
The draws are those of a bootstrap over the clips to second order: normal, with the covariance of the means of all runs
and figures. One over the clips themselves would take as many numbers for each of its resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import FloatArray, Range
from lumina.randomness import generator
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun
from pipelines.reports.recorded_rows import id_ranges, reading, recorded_rows
from pipelines.reports.selection import STAGE, fates
from pipelines.reports.sweep_judged import SCORE, Judged

if TYPE_CHECKING:
    import pyarrow as pa

CONFIDENCE = 0.95
_RESAMPLES = 10_000
_CLIPS, _HOURS = "clips kept", "hours kept"
_MEANING = {
    _CLIPS: "clips that the selection keeps",
    _HOURS: "hours of the clips that the selection keeps",
}


@dataclass(frozen=True)
class _Moments:
    """Sums over the clips, of whether a clip is kept, its hours if so, and which rule removes it else: of each run."""

    clips: int
    rules: tuple[str, ...]
    sums: FloatArray
    """[runs x (2 + rules)]"""
    squares: FloatArray
    """The same, twice: sums of products."""

    @property
    def width(self) -> int:
        """Numbers of a run."""
        return 2 + len(self.rules)


def judge_selection(store: Store, runs: Sequence[ArmRun]) -> Judged | str:
    """What each run keeps and why it removes the rest; a sentence where the runs cannot be paired.

    Raises:
        StoreError: rows cannot be read.
    """
    records = [store.get_run(run.run) for run in runs]
    if any(STAGE not in one.stages or one.stages[STAGE].path is None for one in records):
        return "no run was evaluated, and only some have a selection"
    moments = _moments(store, records)
    if moments is None:
        return "the runs select from different clips, so what they keep cannot be paired: `lumina selection` has each"
    draws, figures = _draws(moments), []
    for at in range(len(runs)):
        start = at * moments.width
        means, own = (one[..., start : start + moments.width] for one in (moments.sums / moments.clips, draws))
        shares = [Estimate(float(mean), own[:, n], moments.clips, (0.0, 1.0)) for n, mean in enumerate(means)]
        figures.append(
            {
                SCORE: shares[0],
                _CLIPS: _total(shares[0], moments.clips, (0.0, float(moments.clips))),
                _HOURS: replace(hours := _total(shares[1], moments.clips, None), draws=hours.draws.clip(min=0.0)),
                **{_removed_by(rule): share for rule, share in zip(moments.rules, shares[2:], strict=True)},
            }
        )
    meaning = _MEANING | {
        _removed_by(rule): "share of the clips; the first rule that they fail" for rule in moments.rules
    }
    return Judged(
        "selection",
        tuple(runs),
        tuple(figures),
        {_CLIPS: 1.0},
        STAGE,
        moments.clips,
        CONFIDENCE,
        meaning,
        counted=(_CLIPS,),
    )


def _removed_by(rule: str) -> str:
    return f"removed by {rule}"


def _total(mean: Estimate, clips: int, values: Range | None) -> Estimate:
    return Estimate(mean.value * clips, mean.draws * clips, mean.units, values)


def _moments(store: Store, records: Sequence[RunRecord]) -> _Moments | None:
    """None where the runs have other clips, or none. Two passes over the rows: which rules there are, then the sums."""
    with reading(", ".join(record.run for record in records), "selection"):
        opened = [recorded_rows(store, record, STAGE) for record in records]
        ranges = id_ranges(opened[0])
        removed: Counter[str] = Counter()
        for rows in opened:
            for ids in ranges:
                table = fates(rows, ids)
                removed.update(table.filter(pc.invert(table["keep"]))["by"].to_pylist())
        rules = tuple(sorted(removed, key=lambda rule: (-removed[rule], rule)))
        width = len(records) * (2 + len(rules))
        total, sums, squares = 0, np.zeros(width), np.zeros((width, width))
        for ids in ranges:
            tables = [fates(rows, ids, "duration_s").sort_by("clip_id") for rows in opened]
            if any(not one["clip_id"].equals(tables[0]["clip_id"]) for one in tables):
                return None
            values = np.concatenate([_columns(one, rules) for one in tables], axis=1)
            total, sums, squares = total + len(values), sums + values.sum(0), squares + values.T @ values
    return _Moments(total, rules, sums, squares) if total else None


def _columns(table: pa.Table, rules: Sequence[str]) -> FloatArray:
    """Of every clip: whether it is kept, its hours if so, and which rule removes it else."""
    keep = table["keep"].to_numpy().astype(np.float64)
    hours = pc.fill_null(table["duration_s"], 0.0).to_numpy() / 3600
    by = table["by"].to_numpy()
    return np.stack([keep, keep * hours, *((by == rule) * (1 - keep) for rule in rules)], axis=1)


def _draws(moments: _Moments) -> FloatArray:
    """[B, runs x (2 + rules)] means in each resample; runs that treat all clips alike have the same ones."""
    means = moments.sums / moments.clips
    scale, axes = np.linalg.eigh(moments.squares / moments.clips - np.outer(means, means))
    normal = generator(0, "selections of a sweep").standard_normal((_RESAMPLES, len(means)))
    draws = means + normal @ (axes * np.sqrt(scale.clip(0.0) / moments.clips)).T
    squares = moments.squares
    for at in range(len(means)):
        run, column = divmod(at, moments.width)
        # Hours are equal where the kept clips are; they have no sums without rounding.
        counted = at - 1 if column == 1 else at
        alike = (
            other
            for other in range(run)
            if squares[counted, counted] + squares[(n := counted % moments.width + other * moments.width), n]
            == 2 * squares[counted, n]
        )
        if (first := next(alike, None)) is not None:
            draws[:, at] = draws[:, column + first * moments.width]
        elif moments.sums[counted] in (0, moments.clips) and column != 1:
            draws[:, at] = means[at]
    return draws
