"""How `lumina diff` looks on a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from lumina.formats import duration, short_digest
from pipelines.diff.difference import EQUAL, SAME_CONTENT, Difference
from pipelines.diff.figures import CurveDiff, Figure
from pipelines.diff.rows import RowChange, RowsDiff, most_moved
from pipelines.diff.runs import Side, StageDiff
from pipelines.engine.recipe_diff import Change, by_inputs_alone
from pipelines.terminal import Text

_NAMED = 10
"""Rows that are named for each stage."""
_PROMPTS = 3
"""Clips of an evaluation that are named."""
_HEX_ID = re.compile(r"[0-9a-f]{16,}")
"""A clip_id or text_id, of which the first characters are enough to find it."""
_MOVES = 2
"""Figures of each that are."""
_STYLES = {"equal": "green", "same content": "green", "follows": "", "not reproduced": "bold red"}
_ANSWER_STYLES = {EQUAL: "bold green", SAME_CONTENT: "bold yellow"}


def answer_text(found: Difference) -> Text:
    """The answer, in its colour."""
    return Text(found.answer, _ANSWER_STYLES.get(found.exit_code, "bold red"))


def difference_view(found: Difference) -> RenderableType:
    """What the answer rests on."""
    parts: list[RenderableType] = [Text(""), _side("A", found.a), _side("B", found.b)]
    parts += _stages(found)
    parts += _recipes(found.stages)
    if found.environment:
        parts += [_title("Machine, commit and runtime options"), *_lines(found.environment)]
        parts += [_line(Text(f"git diff {one.old} {one.new}", "dim")) for one in found.environment if _commits(one)]
    parts += _rows(found.rows)
    parts += _curves(found.curves)
    parts += _figures(found.figures)
    drifted = [f"{stage.name} in {text}" for stage in found.stages for text in stage.drift]
    if drifted:
        parts.append(_title("Kept, though the run's code differs from that which computed it"))
        parts += [_line(Text(text)) for text in drifted]
    if found.notes:
        parts.append(_title("Not compared, or in one run alone"))
        parts += [_line(Text(note)) for note in found.notes]
    return Group(*parts)


def _commits(change: Change) -> bool:
    """Whether each run was computed by one commit, without changes."""
    return change.part == "git" and not any(" " in str(commit) for commit in (change.old, change.new))


def _title(text: str) -> Text:
    return Text(f"\n{text}", "bold")


def _line(text: Text, depth: int = 1) -> Padding:
    return Padding(text, (0, 0, 0, 2 * depth), expand=False)


def _side(letter: str, side: Side) -> Text:
    took = f", {duration(side.seconds)}"
    return Text(letter, "bold").append(f"  {side.run} ({side.name}, {side.started}{took}) in {side.store}", "dim")


def _stages(found: Difference) -> Iterator[RenderableType]:
    shared = [stage for stage in found.stages if stage.shared and stage.verdict == "equal"]
    others = [stage for stage in found.stages if not stage.shared or stage.verdict != "equal"]
    if others:
        table = _table("stage", "verdict", "digest A", "digest B")
        for letter in "AB":
            table.add_column(f"{letter} took", justify="right", no_wrap=True)
        for stage in others:
            mark = "▶ " if stage == found.first else "  "
            style = _STYLES.get(stage.verdict, "red")
            digests = (Text(_digest(digest), "dim") for digest in stage.digests)
            table.add_row(Text(mark + stage.name), Text(stage.verdict, style), *digests, *map(_took, stage.seconds))
        yield table
    if shared:
        names = ", ".join(stage.name for stage in shared)
        yield Text(f"\n{len(shared)} stages are one output that both runs use: {names}", "dim")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _digest(digest: str | None) -> str:
    return short_digest(digest) if digest else "–"


def _took(seconds: float | None) -> str:
    return duration(seconds) if seconds is not None else "–"


def grouped(stages: Sequence[StageDiff]) -> dict[tuple[str, ...], list[StageDiff]]:
    """Stages whose recipes differ by themselves, those with the same differences together."""
    found: dict[tuple[str, ...], list[StageDiff]] = {}
    for stage in stages:
        own = tuple(str(change) for change in stage.changes if not by_inputs_alone((change,)))
        if own:
            found.setdefault(own, []).append(stage)
    return found


def _recipes(stages: Sequence[StageDiff]) -> Iterator[RenderableType]:
    groups = grouped(stages)
    if groups:
        yield _title("Recipes")
    for group in groups.values():
        yield _line(Text(", ".join(stage.name for stage in group), "bold"))
        own = [change for change in group[0].changes if not by_inputs_alone((change,))]
        yield from _lines([change for change in own if change.part != "code"], 2)
        modules = [str(change).removeprefix("code ") for change in own if change.part == "code"]
        if modules:
            more = f" and {len(modules) - 6} more" if len(modules) > 6 else ""
            yield _line(Text(f"code {', '.join(modules[:6])}{more}"), 2)
    follow = [stage.name for stage in stages if stage.changes and by_inputs_alone(stage.changes)]
    if follow:
        yield _line(Text(f"By their inputs alone: {', '.join(follow)}", "dim"))


def _lines(changes: Sequence[Change], depth: int = 1) -> Iterator[RenderableType]:
    for change in changes[:_NAMED]:
        yield _line(Text(str(change)), depth)
    if len(changes) > _NAMED:
        yield _line(Text(f"and {len(changes) - _NAMED} more; --json has all", "dim"), depth)


def _rows(found: Sequence[RowsDiff]) -> Iterator[RenderableType]:
    if found:
        yield _title("Rows")
    seen: dict[tuple[str, object], str] = {}
    for rows in found:
        yield _line(Text(rows.stage, "bold").append(f"  {rows_text(rows)}"))
        columns = ", ".join(f"{name} {count:,}" for name, count in rows.changed.items())
        if columns:
            yield _line(Text(f"by column: {columns}", "dim"), 2)
        if rows.schema:
            yield _line(Text(f"columns that came, went or have another type: {', '.join(rows.schema)}"), 2)
        for transition, times in rows.transitions.items():
            yield _line(Text(f"{times:,} {transition}"), 2)
        if rows.transitions:
            yield from _clips(rows, seen)
        elif rows.changes:
            for change in most_moved(rows, _PROMPTS):
                yield _line(Text(change_text(change, _MOVES)), 2)
            if len(rows.changes) > _PROMPTS:
                more = len(rows.changes) - _PROMPTS
                yield _line(Text(f"and {more:,} more, which moved less; --json has all", "dim"), 2)
        for side, only in (("A", rows.only_a), ("B", rows.only_b)):
            if only:
                yield _line(Text(f"only in {side}: {only_text(only)}", "dim"), 2)


def rows_text(rows: RowsDiff) -> str:
    """`3 of 1,500 rows changed, 2 only in A`."""
    both = rows.rows[0] - len(rows.only_a)
    parts = [f"{rows.changed_rows:,} of {both:,} rows changed"]
    parts += [f"{len(only):,} only in {side}" for side, only in (("A", rows.only_a), ("B", rows.only_b)) if only]
    return ", ".join(parts)


def _clips(rows: RowsDiff, seen: dict[tuple[str, object], str]) -> Iterator[RenderableType]:
    """Clips whose fate changed at this stage; what an earlier stage did to them is told there."""
    new, carried = [], 0
    for change in rows.changes:
        fate = (change.key, str(change.columns.get("status")) + str(change.columns.get("reason")))
        carried += fate in seen
        if fate not in seen:
            seen[fate] = rows.stage
            new.append(change)
    for change in new[:_NAMED]:
        yield _line(Text(change_text(change)), 2)
    if len(new) > _NAMED:
        yield _line(Text(f"and {len(new) - _NAMED:,} more; --json has all", "dim"), 2)
    if carried:
        yield _line(Text(f"{carried:,} as told at an earlier stage", "dim"), 2)


def change_text(change: RowChange, most: int | None = None) -> str:
    """`clip4.mp4 (3f2a…): ok -> filtered/too_short by select`, or the first `most` figures of a generated clip."""
    name = _name(change.key, change.uri)
    if "status" in change.columns:
        old, new = (_fate(change, index) for index in (0, 1))
        details = [pair for pair in change.columns.get("detail", ()) if pair]
        return f"{name}: {old} -> {new}" + (f" ({details[-1]})" if details else "")
    pairs = [_pair(column, pair) for column, pair in change.columns.items()]
    rest = f" and {len(pairs) - most} more" if most is not None and len(pairs) > most else ""
    return f"{name}: {', '.join(pairs[:most])}{rest}"


def only_text(only: Mapping[str, str]) -> str:
    """The first rows that one side alone has, and how many more there are."""
    named = ", ".join(_name(key, uri) for key, uri in list(only.items())[:_NAMED])
    return named + (f" and {len(only) - _NAMED:,} more" if len(only) > _NAMED else "")


def _name(key: str, uri: str) -> str:
    short = key[:12] if _HEX_ID.fullmatch(key) else key
    return f"{uri} ({short})" if uri else short


def _fate(change: RowChange, index: int) -> str:
    status, reason, stage = (change.columns.get(name, ("", ""))[index] for name in ("status", "reason", "reason_stage"))
    return f"{status}/{reason} by {stage}" if reason else str(status)


def _pair(column: str, pair: tuple[object, object]) -> str:
    old, new = ("none" if value is None else number(value) for value in pair)
    return f"{column} {old} -> {new}"


def number(value: object) -> str:
    """Four digits of a number; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_curves(curves: Sequence[CurveDiff]) -> list[CurveDiff]:
    """The losses: of each task, of several tasks together, and of validation."""
    losses = [one for one in curves if one.metric.startswith(("loss/", "val/")) and one.metric.count("/") == 1]
    # The loss of a stage with one task is that of the task.
    single = {
        stage for stage, count in Counter(one.stage for one in losses if "loss" in one.metric).items() if count == 1
    }
    return [one for one in curves if one in losses or (one.metric == "loss" and one.stage not in single)]


def _curves(curves: Sequence[CurveDiff]) -> Iterator[RenderableType]:
    if not curves:
        return
    yield _title("Curves, at the steps that both have")
    table = _table("stage", "metric")
    for column in ("steps", "first differs at", "largest difference", "last A", "last B"):
        table.add_column(column, justify="right")
    for curve in shown_curves(curves):
        table.add_row(*map(Text, (curve.stage, curve.metric, *curve_cells(curve))))
    yield table
    hidden = len(curves) - len(shown_curves(curves))
    if hidden:
        differ = sum(curve.first_step is not None for curve in curves)
        yield Text(f"{differ} of all {len(curves)} curves differ; --json has all", "dim")


def curve_cells(curve: CurveDiff) -> tuple[str, ...]:
    """Steps, the first that differs, the largest difference, and the last values."""
    alone = curve.only_a + curve.only_b
    steps = f"{curve.steps:,}" + (f" (+{alone:,})" if alone else "")
    first = "never" if curve.first_step is None else f"{curve.first_step:,}"
    largest = "0" if curve.largest_step is None else f"{100 * curve.largest:.2g} % at {curve.largest_step:,}"
    return steps, first, largest, number(curve.last[0]), number(curve.last[1])


def evaluations(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Figures by evaluation."""
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(f"{figure.stage} {figure.evaluation}".strip(), []).append(figure)
    return found


def _figures(figures: Sequence[Figure]) -> Iterator[RenderableType]:
    if not figures:
        return
    groups = evaluations(figures)
    moved = {title: [figure for figure in group if figure.moved] for title, group in groups.items()}
    yield _title("Evaluations: what moved")
    if any(moved.values()):
        yield Text("apart: each value lies outside the other's interval; with one seed each that is no test", "dim")
        table = _table()
        table.add_column("figure", overflow="fold")
        for column in ("A", "B", "change"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("apart", no_wrap=True)
        for title, group in moved.items():
            if group:
                table.add_section()
                table.add_row(Text(title, "bold"))
            for figure in group:
                table.add_row(
                    *map(Text, (figure.metric, *figure_cells(figure))), Text("yes" if figure.outside else "", "yellow")
                )
        yield table
    still = [title for title, group in moved.items() if not group]
    if still:
        yield Text("Nothing moved in " + ", ".join(still), "dim")


def figure_cells(figure: Figure) -> tuple[str, str, str]:
    """Both values with their intervals, and the change."""
    cells = []
    for value, interval in zip(figure.values, figure.intervals, strict=True):
        cells.append(number(value) + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""))
    return cells[0], cells[1], f"{figure.values[1] - figure.values[0]:+.2g}"
