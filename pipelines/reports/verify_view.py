"""Terminal view of `lumina verify`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table

from lumina.formats import duration, size
from pipelines.compare.verification import Problem, Row, Unchecked, Verification
from pipelines.terminal import Text, indented, make_table

_ROWS_SHOWN = 4
_STAGES_SHOWN = 3
_HEX = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def verification_view(found: Verification) -> RenderableType:
    """The stages, what is wrong with each, a line in bold, and what was not checked."""
    parts: list[RenderableType] = [Text(f"Run {found.run} ({found.name}, {found.started})", "dim"), _stages(found)]
    for name, problems in (("", found.problems), *((stage.name, stage.problems) for stage in found.stages)):
        if problems:
            parts += [Text(name or "the run itself", "bold red"), *_problems(problems), Text("")]
    drifted = [stage for stage in found.stages if stage.drift]
    if drifted:
        parts.append(Text("Kept, though the run's code differs from that which computed it:", "yellow"))
        parts += [*(indented(Text(f"{stage.name}: {stage.drift}")) for stage in drifted), Text("")]
    parts.append(_line(found))
    if found.repaired:
        parts.append(Text(f"The next `lumina run` computes again: {', '.join(found.repaired)}."))
    elif any(stage.repairable for stage in found.stages):
        options = "".join(f" --{name}" for name in ("deep", "rows") if getattr(found, name))
        hint = f"`lumina verify {found.run}{options} --repair` has the next `lumina run` compute what is damaged again."
        parts.append(Text(hint))
    parts.append(Text("Not checked:", "dim"))
    parts += [indented(Text(note, "dim")) for note in _notes(found.not_checked)]
    return Group(*parts)


def _stages(found: Verification) -> Table:
    table = make_table("~stage", "output", ">files", ">size", "found")
    for stage in found.stages:
        number = len(stage.problems)
        sign = Text(f"✗ {number} wrong", "bold red") if number else Text("✓ intact", "green")
        if stage.drift:
            sign.append(", code differs", "yellow")
        table.add_row(stage.name, stage.kind or "–", f"{stage.files:,}", size(stage.bytes), sign)
    return table


def _problems(problems: Iterable[Problem]) -> Iterable[RenderableType]:
    for problem in problems:
        yield indented(Text(problem.path, overflow="fold"))
        yield indented(Text(f"{problem.what}: ", "red").append(_short(problem.detail), "default"), 4)
        if problem.rows:
            yield indented(Text(_rows(problem.rows)), 4)


def _rows(rows: tuple[Row, ...]) -> str:
    shown = ", ".join(f"{row.row} ({_short(row.id)})" for row in rows[:_ROWS_SHOWN])
    more = f" and {len(rows) - _ROWS_SHOWN:,} more" if len(rows) > _ROWS_SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _short(text: str) -> str:
    """With the first digits of each SHA-256 alone; --json has them all."""
    return _HEX.sub(r"\1…", text)


def _line(found: Verification) -> Text:
    files, total = sum(stage.files for stage in found.stages), sum(stage.bytes for stage in found.stages)
    what = f"{len(found.stages)} stages, {files:,} files, {size(total)}, in {duration(found.seconds)}"
    wrong = len(found.found)
    if not wrong:
        return Text(f"All that was checked is intact: {what}.", "bold green")
    return Text(f"{wrong} {'things are' if wrong > 1 else 'thing is'} wrong: {what}.", "bold red")


def _notes(notes: Iterable[Unchecked]) -> Iterable[str]:
    """One line for all stages of which the same was not checked."""
    stages: dict[str, list[str]] = {}
    for note in notes:
        stages.setdefault(note.what, []).append(note.stage)
    for what, names in stages.items():
        if names == [""]:
            yield what
            continue
        more = f" and {len(names) - _STAGES_SHOWN} more" if len(names) > _STAGES_SHOWN else ""
        yield f"{', '.join(names[:_STAGES_SHOWN])}{more}: {what}"
