"""Terminal tables of selections: rules by source, and what two policies treat otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from curation.control_characters import shown_in_line
from lumina.formats import counted
from pipelines.reports.selection import ABSENT, BySource, Change, Selection, SelectionDiff
from pipelines.terminal import Text, in_line, indented, make_table

_TITLE = 12
"""Characters of a column's title that stay on one line."""
_FIRST = 30
_GAP = 3
_MOST = 8
"""Sources with a column of their own at most."""


@dataclass(frozen=True)
class _Line:
    """One row of a table by source; several counts are shown as `1 / 2`."""

    title: str
    counts: tuple[BySource, ...]
    style: str = ""


def selection_view(found: Selection, width: int) -> RenderableType:
    """Rule x source, `width` characters at most: what each rule removed, and what is kept."""
    clips = [_Line("clips", (found.clips,))]
    if any(found.aside.values()):
        clips.append(_Line("set aside before", (found.aside,)))
    rules = [_Line(rule.rule, (rule.first, rule.failed)) for rule in found.rules]
    kept = [_Line("kept", (found.kept,), "bold")]
    kept += [_Line(f"  for {name}", (count,)) for name, count in found.kept_for.items()]
    legend = "No rule removed a clip."
    if rules:
        legend = "removed by a rule as the first that a clip fails / clips that fail it at all"
    if any("@" in rule.title for rule in rules):
        legend += "; rule@set: only that latents set"
    head = Text(f"Run {found.run} ({found.name}), policy {found.policy_id}", "dim")
    table = _by_source("rule", [clips, rules, kept] if rules else [clips, kept], found.clips, width)
    return Group(head, table, Text(legend, "dim"))


def difference_view(found: SelectionDiff, width: int) -> RenderableType:
    """What two policies treat otherwise: settings, then clips by rule and source, with a few of them."""
    old, new = found.old, found.new
    before, now = sum(old.kept.values()), sum(new.kept.values())
    parts: list[RenderableType] = [
        Text(f"\nCompared with run {old.run}, policy {old.policy_id}", "bold"),
        _settings(found.settings),
        Text(f"{counted(before, 'clip')} kept before, {now:,} now."),
    ]
    if found.only_old or found.only_new:
        parts.append(Text(f"The data differ: {counted(found.only_old, 'clip')} went, {found.only_new:,} came."))
    clips = {**old.clips, **new.clips}
    parts += _changes("Newly kept", "removed before by", found.newly_kept, clips, width, "green")
    parts += _changes("Newly removed", "removed now by", found.newly_removed, clips, width, "red")
    return Group(*parts)


def _settings(changed: Mapping[str, tuple[Any, Any]]) -> RenderableType:
    if not changed:
        return Text("The policies are the same: what differs comes from the clips or the code.", "dim")
    table = make_table("~setting", "~before", "~now")
    for key, pair in changed.items():
        cells = (in_line(_value(value), "dim" if value in (None, ABSENT) else "") for value in pair)
        table.add_row(f"select.{key}", *cells)
    return table


def _value(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, float):
        return f"{value:.15g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _changes(
    title: str, by: str, changes: Sequence[Change], clips: BySource, width: int, style: str
) -> list[RenderableType]:
    if not changes:
        return [Text(f"{title}: none", "dim")]
    lines = [_Line(change.rule, (change.clips,)) for change in changes]
    total = sum(sum(change.clips.values()) for change in changes)
    examples = [
        in_line(example.uri).append(
            shown_in_line(f"  {example.source}  {example.detail}  {example.clip_id[:12]}"), "dim"
        )
        for change in changes
        for example in change.examples
    ]
    return [
        Text(f"\n{title}: {counted(total, 'clip')}", f"bold {style}"),
        _by_source(by, [lines], clips, width),
        *map(indented, examples),
    ]


def _by_source(first: str, sections: Sequence[Sequence[_Line]], clips: BySource, width: int) -> Table:
    """A table with a column for each of the largest sources, as many as fit, one for the others, and one for all."""
    lines = [line for section in sections for line in section]
    named = min(_FIRST, max(len(first), *(len(line.title) for line in lines)))
    column = max(_TITLE, *(len(_cell(line, list(clips)).plain) for line in lines)) + _GAP
    groups = _groups(clips, (width - named) // column)
    table = make_table()
    table.add_column(first, overflow="fold", min_width=min(_FIRST, len(first)))
    for title, _ in groups:
        table.add_column(in_line(title, no_wrap=False), justify="right", overflow="fold", min_width=column - _GAP)
    for section in sections:
        for line in section:
            table.add_row(line.title, *(_cell(line, sources) for _, sources in groups), style=line.style)
        table.add_section()
    return table


def _groups(clips: BySource, columns: int) -> list[tuple[str, list[str]]]:
    """Titles and the sources that they sum up, in so many columns: the largest sources alone, all others, and all."""
    ordered = sorted(clips, key=lambda source: (-clips[source], source))
    own = len(ordered) if len(ordered) < min(columns, _MOST + 2) else max(0, min(columns - 2, _MOST))
    groups = [(source, [source]) for source in sorted(ordered[:own])]
    if own and ordered[own:]:
        groups.append((f"{len(ordered) - own} others", ordered[own:]))
    return groups if own == len(ordered) == 1 else [*groups, ("all", ordered)]


def _cell(line: _Line, sources: Sequence[str]) -> Text:
    numbers = [sum(count.get(source, 0) for source in sources) for count in line.counts]
    return Text(" / ".join(f"{number:,}" for number in numbers), "" if any(numbers) else "dim", no_wrap=True)
