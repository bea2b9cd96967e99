"""Scores page of VBench: the paper's rows beside yours, intervals, gaps, and each dimension's best and worst clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumina.evaluation.subsets import Interval
from lumina.formats import counted, short_digest
from lumina.pages.charts import Forest
from lumina.pages.charts import Interval as Bar
from lumina.pages.page import MEDIA_BYTES, Cell, Clip, ClipRow, data_uri, render
from lumina.vbench.clip_files import prompt_of
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.published import MULTI_SCALE, Published, published
from lumina.vbench.score_store import Scored
from lumina.vbench.summary import DimensionResult, DimensionScores, Summary

TEMPLATE = Path(__file__).with_name("page.html.j2")
_ENDS = 2
"""Clips with the lowest and with the highest score that are shown of a dimension."""
_MOST = 40
"""Chromium on a phone gives a page 40 players, and a clip beyond them stays black."""


@dataclass(frozen=True)
class Subject:
    """What was judged, in words."""

    name: str
    clips: int
    samples: int
    prompts_file: str
    """What the prompts come from; empty without."""
    folder: Path
    """With the clips."""
    note: str | None = None
    """What a reader of the figures must know of the clips."""


def make_page(
    subject: Subject,
    summary: Summary,
    scores: Mapping[str, DimensionScores],
    confidence: float,
    clean: Callable[[str], str] = str,
) -> str:
    """Fill the template; `clean` is what every text goes through."""
    rows = published()
    return render(
        TEMPLATE,
        clean,
        plays=True,
        subject=subject,
        confidence=confidence,
        tiles_=_tiles(subject, summary),
        totals=[_totals_row(summary), *(_published_totals(row) for row in rows)],
        dimensions=[_dimension_row(one, _multi_scale(rows)) for one in summary.dimensions],
        every=[_own_row(summary), *(_published_row(row) for row in rows)],
        titles=[name.replace("_", " ") for name in DIMENSIONS],
        forest=Forest([_bar(one) for one in summary.dimensions if one.interval is not None]),
        gaps=[(name, gap) for name, gap in _gaps(summary) if gap],
        sheet=_sheet(subject, scores),
    )


def _multi_scale(rows: Sequence[Published]) -> Published:
    return next(row for row in rows if row.model == MULTI_SCALE).corrected()


def _gaps(summary: Summary) -> list[tuple[str, str | None]]:
    return [(one.name, one.gap) for one in summary.dimensions] + [(one.name, one.gap) for one in summary.totals]


def _tiles(subject: Subject, summary: Summary) -> list[tuple[str, str]]:
    found = {one.name: one.interval for one in summary.totals}
    tiles = [(_percent(found[name]) if found[name] else "none", name) for name in ("total", "quality", "semantic")]
    whole = sum(one.gap is None for one in summary.dimensions)
    return [*tiles, (f"{whole} of {len(DIMENSIONS)}", "dimensions"), (f"{subject.clips:,}", "clips")]


def _percent(found: Interval | None) -> str:
    return "" if found is None else f"{100 * found.value:.2f}"


def _ends(found: Interval) -> str:
    return f"[{100 * found.low:.2f}, {100 * found.high:.2f}]" if math.isfinite(found.low) else "of one prompt"


def _cell(found: Interval | None) -> Cell:
    return Cell("–") if found is None else Cell(_percent(found), _ends(found))


def _totals_row(summary: Summary) -> list[Cell | str]:
    totals = {one.name: one.interval for one in summary.totals}
    single = {one.name: one.interval for one in summary.dimensions}
    figures = [totals["total"], totals["quality"], totals["semantic"]]
    figures += [single.get("motion_smoothness"), single.get("dynamic_degree")]
    return [Cell("yours", style="c0"), *(_cell(one) for one in figures)]


def _published_totals(row: Published) -> list[str]:
    figures = [row.printed.total, row.printed.quality, row.printed.semantic]
    figures += [row.scores["motion_smoothness"], row.scores["dynamic_degree"]]
    return [row.model, *(f"{one:.2f}" for one in figures)]


def _own_row(summary: Summary) -> list[Cell | str]:
    found = {one.name: one.interval for one in summary.dimensions}
    return [Cell("yours", style="c0"), *(_cell(found.get(name)) for name in DIMENSIONS)]


def _published_row(row: Published) -> list[str]:
    return [row.model, *(f"{row.scores[name]:.2f}" for name in DIMENSIONS)]


def _dimension_row(one: DimensionResult, paper: Published) -> list[Cell | str]:
    who = "official code" if one.by == "official" else "computed here"
    weights = ", ".join(f"{name} {short_digest(digest)}" for name, digest in one.weights.items())
    value = _cell(one.interval)
    return [
        Cell(one.name.replace("_", " "), one.note or ""),
        value,
        f"{paper.scores[one.name]:.2f}",
        f"{one.prompts:,}",
        f"{one.clips:,}",
        Cell(who, weights),
    ]


def _bar(one: DimensionResult) -> Bar:
    found = one.interval
    assert found is not None  # noqa: S101 - the caller leaves the others out
    low, high = (100 * end if math.isfinite(end) else None for end in (found.low, found.high))
    return Bar(one.name.replace("_", " "), 100 * found.value, low, high)


def _sheet(subject: Subject, scores: Mapping[str, DimensionScores]) -> list[ClipRow]:
    """A row for each dimension, the clips with its lowest and its highest scores, as many rows as fit."""
    sheet, spent, shown = [], 0, 0
    for name, found in scores.items():
        valued = [one for one in found.scored if one.verdict.score is not None and one.verdict.score.count]
        ordered = sorted(valued, key=lambda one: (_value(one), one.clip))
        chosen = list(dict.fromkeys([*ordered[:_ENDS], *ordered[-_ENDS:]]))
        files = {one.clip: subject.folder / one.clip for one in chosen}
        size = sum(file.stat().st_size for file in files.values() if file.is_file())
        if not chosen or spent + size > MEDIA_BYTES or shown + len(chosen) > _MOST:
            continue
        spent, shown = spent + size, shown + len(chosen)
        clips = [
            Clip(f"{100 * _value(one):.2f}: {prompt_of(one.clip)}", data_uri(files[one.clip], one.clip))
            for one in chosen
        ]
        sheet.append(ClipRow(f"{name.replace('_', ' ')}, {counted(len(valued), 'clip')}", clips))
    return sheet


def _value(one: Scored) -> float:
    score = one.verdict.score
    return score.value or 0.0 if score is not None else 0.0
