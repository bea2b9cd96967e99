"""Scores of VBench on a terminal: a table of the figures, then what differs from the protocol and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from pipelines.terminal import Text, in_line, make_table

if TYPE_CHECKING:
    from lumina.vbench.report_files import Report


def report_view(report: Report) -> RenderableType:
    """Figures of dimensions and totals beside the paper's, notes, and gaps with their reasons."""
    from lumina.vbench.published import MULTI_SCALE, published
    from lumina.vbench.summary import percent

    paper = next(row for row in published() if row.model == MULTI_SCALE).corrected()
    printed = {"quality": paper.printed.quality, "semantic": paper.printed.semantic, "total": paper.printed.total}
    table = make_table("figure", ">percent", ">paper", ">prompts", ">clips")
    summary = report.summary
    for one in summary.dimensions:
        if one.interval:
            numbers = (f"{one.prompts:,}", f"{one.clips:,}")
            table.add_row(one.metric, percent(one.interval), f"{paper.scores[one.name]:.2f}", *numbers)
    for total in summary.totals:
        if total.interval:
            table.add_row(total.metric, percent(total.interval), f"{printed[total.name]:.2f}", "", "")
    lines = [in_line(report.subject.note, "yellow")] if report.subject.note else []
    lines += _grouped(((one.name, one.note) for one in summary.dimensions), "dim")
    broken = {one.gap for one in summary.dimensions if one.is_broken or one.failed}
    gaps = [(one.name, one.gap) for one in summary.dimensions] + [(one.name, one.gap) for one in summary.totals]
    lines += _grouped(((name, gap) for name, gap in gaps if gap in broken), "bold red")
    lines += _grouped(((name, gap) for name, gap in gaps if gap not in broken), "yellow")
    if any(one.gap for one in summary.dimensions):
        lines.append(Text("docs/vbench.md says which weights and which environment there are.", "dim"))
    shown: list[RenderableType] = [table] if table.row_count else [Text("No dimension has a figure.", "bold")]
    return Group(*shown, *lines)


def _grouped(said: Iterable[tuple[str, str | None]], style: str) -> list[Text]:
    """A line for each text, with the names that it is said of."""
    names: dict[str, list[str]] = {}
    for name, text in said:
        if text:
            names.setdefault(text, []).append(name)
    return [in_line(f"{', '.join(of)}: {text}", style) for text, of in names.items()]
