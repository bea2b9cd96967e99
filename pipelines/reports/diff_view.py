"""Report of a comparison of two runs, in sections that a terminal and a page show alike, and its look on a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table

from lumina.formats import duration, short_digest
from lumina.pages.page import Cell
from pipelines.compare.difference import EQUAL, SAME_CONTENT, RunDiff
from pipelines.compare.metrics import CurveDiff, MetricDiff
from pipelines.compare.rows import RowChange, RowsDiff, most_moved
from pipelines.compare.runs import StageDiff
from pipelines.engine.recipe_diff import Change, by_inputs_alone
from pipelines.terminal import Text, indented, make_table

_NAMED = 10
"""Rows that are named for each stage."""
_PROMPTS = 5
"""Clips of an evaluation that are named."""
_FIGURES = 3
"""Figures of each that are."""
_MODULES = 6
_HEX_ID = re.compile(r"[0-9a-f]{16,}")
"""A clip_id or text_id, of which the first characters are enough to find it."""
_VERDICTS = {"equal": "good", "same content": "good", "follows": ""}
_STYLES = {"good": "green", "bad": "red", "warn": "yellow", "note": "dim", "head": "bold"}
"""Style of a cell or line -> style on a terminal."""
_ANSWER_STYLES = {EQUAL: "bold green", SAME_CONTENT: "bold yellow"}


@dataclass(frozen=True)
class Line:
    """A line of text."""

    text: str
    style: str = ""
    """`head`, `note`, or none."""
    depth: int = 1


@dataclass(frozen=True)
class Grid:
    """A table; a row of one cell goes over all columns."""

    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    text: tuple[int, ...] = ()
    """Columns besides the first that hold no numbers."""


@dataclass(frozen=True)
class Section:
    """What is said of one thing."""

    title: str
    parts: Sequence[Line | Grid]


def answer_text(found: RunDiff) -> Text:
    """The answer, in its colour."""
    return Text(found.answer, _ANSWER_STYLES.get(found.exit_code, "bold red"))


def difference_view(found: RunDiff) -> RenderableType:
    """What the answer rests on, on a terminal."""
    parts: list[RenderableType] = [Text("")]
    for section in sections(found):
        parts += [Text(f"\n{section.title}", "bold")] if section.title else []
        for part in section.parts:
            if isinstance(part, Grid):
                parts.append(_table(part))
            else:
                parts.append(indented(Text(part.text, _STYLES.get(part.style, "")), 2 * part.depth))
    return Group(*parts)


def _table(grid: Grid) -> Table:
    table = make_table()
    for index, column in enumerate(grid.columns):
        left = index == 0 or index in grid.text
        table.add_column(column, justify="left" if left else "right", no_wrap=index > 0, overflow="fold")
    for row in grid.rows:
        cells = [Cell(cell) if isinstance(cell, str) else cell for cell in row]
        if len(cells) == 1:
            table.add_section()
        table.add_row(*(Text(cell.text, "bold" if len(cells) == 1 else _STYLES.get(cell.style, "")) for cell in cells))
    return table


def sections(found: RunDiff) -> list[Section]:
    """What the answer rests on; of what does not differ there is no section."""
    drifted = [Line(f"{stage.name} in {text}") for stage in found.stages for text in stage.drift]
    told = [
        Section("", [*_sides(found), *_stages(found)]),
        Section("Recipes", [*_recipes(found.stages)]),
        Section("Machine, commit and runtime options", [*_environment(found.environment)]),
        Section("Rows", [*_rows(found.rows)]),
        Section("Curves, at the steps that both have", [*_curves(found.curves)]),
        Section("Evaluations: what moved", [*_evaluations(found.figures)]),
        Section("Kept, though the run's code differs from that which computed it", drifted),
        Section("Not compared, or in one run alone", [Line(note) for note in found.notes]),
    ]
    return [section for section in told if section.parts]


def _sides(found: RunDiff) -> Iterator[Line]:
    for letter, side in (("A", found.a), ("B", found.b)):
        took = duration(side.seconds)
        yield Line(f"{letter}  {side.run} ({side.name}, {side.started}, {took}) in {side.store}", "note", 0)


def _stages(found: RunDiff) -> Iterator[Line | Grid]:
    shared = [stage for stage in found.stages if stage.shared and stage.verdict == "equal"]
    rows: list[list[str | Cell]] = [
        [
            ("▶ " if stage == found.first else "  ") + stage.name,
            Cell(stage.verdict, style=_VERDICTS.get(stage.verdict, "bad")),
            *(short_digest(digest) if digest else "–" for digest in stage.digests),
            *("–" if seconds is None else duration(seconds) for seconds in stage.seconds),
        ]
        for stage in found.stages
        if stage not in shared
    ]
    if rows:
        yield Grid(
            "Stages of both runs", ("stage", "verdict", "digest A", "digest B", "A took", "B took"), rows, text=(1,)
        )
    if shared:
        names = ", ".join(stage.name for stage in shared)
        yield Line(f"{len(shared)} stages are one output that both runs use: {names}", "note", 0)


def _recipes(stages: Sequence[StageDiff]) -> Iterator[Line]:
    """Stages whose recipes differ by themselves, those with the same differences together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    own: dict[str, list[Change]] = {}
    for stage in stages:
        own[stage.name] = [change for change in stage.changes if not by_inputs_alone((change,))]
        if own[stage.name]:
            groups.setdefault(tuple(map(str, own[stage.name])), []).append(stage.name)
    for names in groups.values():
        yield Line(", ".join(names), "head")
        yield from _lines([str(change) for change in own[names[0]] if change.part != "code"], 2)
        modules = [str(change).removeprefix("code ") for change in own[names[0]] if change.part == "code"]
        if modules:
            yield Line(f"code {_first(modules, _MODULES)}", depth=2)
    follow = [stage.name for stage in stages if stage.changes and by_inputs_alone(stage.changes)]
    if follow:
        yield Line(f"By their inputs alone: {', '.join(follow)}", "note")


def _first(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _lines(texts: Sequence[str], depth: int = 1) -> Iterator[Line]:
    for text in texts[:_NAMED]:
        yield Line(text, depth=depth)
    if len(texts) > _NAMED:
        yield Line(f"and {len(texts) - _NAMED:,} more; --json has all", "note", depth)


def _environment(changes: Sequence[Change]) -> Iterator[Line]:
    yield from _lines([str(change) for change in changes])
    for change in changes:
        # Each run was computed by one commit, without changes.
        if change.part == "git" and not any(" " in str(commit) for commit in (change.old, change.new)):
            yield Line(f"git diff {change.old} {change.new}", "note")


def _rows(found: Sequence[RowsDiff]) -> Iterator[Line]:
    seen: set[tuple[str, str]] = set()
    for rows in found:
        sides = [(letter, only) for letter, only in (("A", rows.only_a), ("B", rows.only_b)) if only]
        alone = "".join(f", {len(only):,} only in {letter}" for letter, only in sides)
        both = rows.rows[0] - len(rows.only_a)
        yield Line(f"{rows.stage}  {rows.changed_rows:,} of {both:,} rows changed{alone}", "head")
        if rows.changed:
            yield Line(
                f"by column: {', '.join(f'{name} {count:,}' for name, count in rows.changed.items())}", "note", 2
            )
        if rows.schema:
            yield Line(f"columns that came, went or have another type: {', '.join(rows.schema)}", depth=2)
        yield from (Line(f"{times:,} {transition}", depth=2) for transition, times in rows.transitions.items())
        if rows.transitions:
            yield from _clips(rows, seen)
        else:
            moved = most_moved(rows, _PROMPTS)
            yield from (Line(change_text(change, _FIGURES), depth=2) for change in moved)
            if len(rows.changes) > len(moved):
                more = f"and {len(rows.changes) - len(moved):,} more, which moved less; --json has all"
                yield Line(more, "note", 2)
        for letter, only in sides:
            named = [_name(key, uri) for key, uri in only.items()]
            yield Line(f"only in {letter}: {_first(named, _NAMED)}", "note", 2)


def _clips(rows: RowsDiff, seen: set[tuple[str, str]]) -> Iterator[Line]:
    """Clips whose fate changed at this stage; what an earlier stage did to them is told there."""
    fates = {(one.key, f"{one.columns.get('status')}{one.columns.get('reason')}"): one for one in rows.changes}
    yield from _lines([change_text(change) for fate, change in fates.items() if fate not in seen], 2)
    if told := len(seen & fates.keys()):
        yield Line(f"{told:,} as told at an earlier stage", "note", 2)
    seen.update(fates)


def change_text(change: RowChange, most: int | None = None) -> str:
    """`clip4.mp4 (3f2a…): ok -> filtered/too_short by select`, or the first `most` figures of a generated clip."""
    name = _name(change.key, change.uri)
    if "status" in change.columns:
        old, new = (_fate(change, index) for index in (0, 1))
        details = [pair for pair in change.columns.get("detail", ()) if pair]
        return f"{name}: {old} -> {new}" + (f" ({details[-1]})" if details else "")
    pairs = [
        f"{column} {' -> '.join('none' if value is None else number(value) for value in pair)}"
        for column, pair in change.columns.items()
    ]
    return f"{name}: {_first(pairs, most or len(pairs))}"


def _name(key: str, uri: str) -> str:
    short = key[:12] if _HEX_ID.fullmatch(key) else key
    return f"{uri} ({short})" if uri else short


def _fate(change: RowChange, index: int) -> str:
    status, reason, stage = (change.columns.get(name, ("", ""))[index] for name in ("status", "reason", "reason_stage"))
    return f"{status}/{reason} by {stage}" if reason else str(status)


def number(value: object) -> str:
    """Four digits of a number; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_curves(curves: Sequence[CurveDiff]) -> list[CurveDiff]:
    """The losses: of each task, of several tasks together, and of validation."""
    losses = [one for one in curves if one.metric.startswith(("loss/", "val/")) and one.metric.count("/") == 1]
    # The loss of a stage with one task is that of the task.
    tasks = Counter(one.stage for one in losses if "loss" in one.metric)
    return [one for one in curves if one in losses or (one.metric == "loss" and tasks[one.stage] != 1)]


def _curves(curves: Sequence[CurveDiff]) -> Iterator[Line | Grid]:
    if not curves:
        return
    rows = []
    for one in shown_curves(curves):
        alone = one.only_a + one.only_b
        steps = f"{one.steps:,}" + (f" (+{alone:,})" if alone else "")
        first = "never" if one.first_step is None else f"{one.first_step:,}"
        largest = "0" if one.largest_step is None else f"{100 * one.largest:.2g} % at {one.largest_step:,}"
        rows.append([one.stage, one.metric, steps, first, largest, *map(number, one.last)])
    columns = ("stage", "metric", "steps", "first differs at", "largest difference", "last A", "last B")
    yield Grid("Curves of both runs", columns, rows, text=(1,))
    if len(curves) > len(rows):
        differ = sum(curve.first_step is not None for curve in curves)
        yield Line(f"{differ} of all {len(curves)} curves differ; --json has all", "note", 0)


def _evaluations(figures: Sequence[MetricDiff]) -> Iterator[Line | Grid]:
    groups: dict[str, list[MetricDiff]] = {}
    for figure in figures:
        groups.setdefault(f"{figure.stage} {figure.evaluation}".strip(), []).append(figure)
    moved = {title: [figure for figure in group if figure.moved] for title, group in groups.items()}
    rows: list[list[str | Cell]] = []
    for title, group in moved.items():
        rows += [[title]] if group else []
        for one in group:
            change = f"{one.values[1] - one.values[0]:+.2g}"
            rows.append([one.metric, *_values(one), change, Cell("yes" if one.outside else "", style="warn")])
    if rows:
        yield Line("apart: each value lies outside the other's interval; with one seed each that is no test", "note", 0)
        yield Grid("Figures that moved", ("figure", "A", "B", "change", "apart"), rows, text=(4,))
    still = [title for title, group in moved.items() if not group]
    if still:
        yield Line(f"Nothing moved in {', '.join(still)}", "note", 0)


def _values(figure: MetricDiff) -> Iterator[str]:
    for value, interval in zip(figure.values, figure.intervals, strict=True):
        yield number(value) + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")
