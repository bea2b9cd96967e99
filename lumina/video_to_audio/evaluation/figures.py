"""Figures of a condition: from one row per sound to means and ratios with their bootstrap draws over clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.evaluation.metrics import Estimate, difference
from lumina.evaluation.subsets import Range
from lumina.video_to_audio.evaluation.onset_f1 import OnsetCounts

Row = Mapping[str, Any]
Parts = tuple[float, float]
"""What a clip adds to the numerator and to the denominator."""


@dataclass(frozen=True)
class Figure:
    """One figure: the sum of the numerators over that of the denominators."""

    name: str
    parts: Callable[[Row], Parts | None]
    """Of a row; None where the figure does not apply to it."""
    meaning: str
    values: Range | None = None
    """What it lies between."""


def _mean(column: str) -> Callable[[Row], Parts | None]:
    return lambda row: None if row[column] is None else (row[column], 1.0)


def _of_counts(name: str, prefix: str = "") -> Callable[[Row], Parts | None]:
    def parts(row: Row) -> Parts | None:
        if row["events"] is None:
            return None
        found = OnsetCounts(*(row[f"{prefix}{column}"] for column in ("events", "onsets", "hits")))
        return float(getattr(found, name)), 1.0

    return parts


def _ratio(numerator: Callable[[Row], float], denominator: Callable[[Row], float]) -> Callable[[Row], Parts | None]:
    return lambda row: None if row["events"] is None else (numerator(row), denominator(row))


def _by_name(*figures: Figure) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


FIGURES: dict[str, Figure] = _by_name(
    Figure("onset_f1_50ms", _of_counts("f1"), "F1 of onsets and all true events within 50 ms, mean of clips", (0, 1)),
    Figure("onset_precision_50ms", _of_counts("precision"), "share of the onsets that are an event's", (0, 1)),
    Figure("onset_recall_50ms", _of_counts("recall"), "share of the events that have an onset", (0, 1)),
    Figure(
        "onset_f1_micro_50ms",
        _ratio(lambda row: 2 * row["hits"], lambda row: row["events"] + row["onsets"]),
        "F1 of the events and onsets of all clips together",
        (0, 1),
    ),
    Figure("onset_f1_seen_50ms", _of_counts("f1", "seen_"), "F1 against the events that are seen alone", (0, 1)),
    Figure(
        "class_acc_matched",
        _ratio(lambda row: row["class_hits"], lambda row: row["hits"]),
        "share of the events with an onset whose pitch is right",
        (0, 1),
    ),
    Figure(
        "class_acc_all",
        _ratio(lambda row: row["class_hits"], lambda row: row["events"]),
        "share of all events with an onset of the right pitch",
        (0, 1),
    ),
    Figure("av_align_v2025", _mean("av_align"), "AV-Align as released in February 2025", (0, 1)),
    Figure("av_align_v2025_excess", _mean("av_align_excess"), "that above its chance level", (-1, 1)),
    Figure("mel_l1", _mean("mel_l1"), "mean absolute difference to the true log-mel"),
    Figure("mel_recon_snr", _mean("mel_recon_snr"), "dB between the true mel magnitudes and the error"),
    Figure("rms_dbfs", _mean("rms_dbfs"), "level in dB of full scale"),
)

Draws = NDArray[np.int64]


def estimates(rows: Mapping[str, Row], clips: Sequence[str], drawn: Draws) -> dict[str, Estimate]:
    """Every figure that applies to one condition's rows.

    Args:
        rows: by clip.
        clips: all that were evaluated, in the order of the draws.
        drawn: resamples [B, clips], how often each clip was drawn.
    """
    found = {}
    for name, figure in FIGURES.items():
        parts = {clip: figure.parts(rows[clip]) for clip in clips if clip in rows}
        one = _estimate({clip: two for clip, two in parts.items() if two is not None}, clips, drawn, figure.values)
        if one is not None:
            found[name] = one
    return found


def differences(
    before: Mapping[str, Row], after: Mapping[str, Row], clips: Sequence[str], drawn: Draws
) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """Every figure of two conditions and after minus before, over the clips to which it applies in both."""
    found = {}
    for name, figure in FIGURES.items():
        sides: list[dict[str, Parts]] = [{}, {}]
        for clip in clips:
            if clip in before and clip in after:
                pair = figure.parts(before[clip]), figure.parts(after[clip])
                if pair[0] is not None and pair[1] is not None:
                    sides[0][clip], sides[1][clip] = pair[0], pair[1]
        first, second = (_estimate(side, clips, drawn, figure.values) for side in sides)
        if first is not None and second is not None:
            found[name] = first, second, difference(first, second)
    return found


def _estimate(parts: Mapping[str, Parts], clips: Sequence[str], drawn: Draws, values: Range | None) -> Estimate | None:
    sums = np.array([parts.get(clip, (0.0, 0.0)) for clip in clips], dtype=np.float64)
    top, bottom = sums.sum(0) if len(sums) else (0.0, 0.0)
    if not bottom:
        return None
    tops, bottoms = drawn @ sums[:, 0], drawn @ sums[:, 1]
    draws = np.divide(tops, bottoms, out=np.full(len(drawn), np.nan), where=bottoms > 0)
    return Estimate(float(top / bottom), draws, int((sums[:, 1] > 0).sum()), values)
