"""How `lumina rerun` looks on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from pipelines.rerun.preflight import Check, stops
from pipelines.rerun.rerun import Rerun
from pipelines.rerun.verdict import StageVerdict, Verdict
from pipelines.terminal import Text

_STATES = {"ok": ("✓", "green"), "differs": ("≠", "yellow"), "missing": ("✗", "bold red")}
_OUTCOMES = {"bitwise equal": "green", "within tolerance": "green", "within band": "green", "reused": "dim"}


def checks_view(checks: Sequence[Check]) -> RenderableType:
    """What was looked at before anything starts."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = _STATES[check.state]
        table.add_row(
            Text(mark, style), Text(check.what, "bold"), Text(check.detail, "" if check.state == "ok" else style)
        )
    if not stops(checks):
        return table
    return Group(table, Text("\nNothing was started.", "bold red"))


def answer_text(verdict: Verdict) -> Text:
    """Reproduced or not, in its colour."""
    return Text(verdict.answer, "bold green" if verdict.ok else "bold red")


def verdict_view(found: Rerun) -> RenderableType:
    """What the answer rests on, stage by stage."""
    if found.verdict is None:
        return Text("")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("held to", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("", overflow="fold")
    for stage in found.verdict.stages:
        style = _OUTCOMES.get(stage.outcome, "bold red")
        table.add_row(stage.name, Text(_held_to(stage), "dim"), Text(stage.outcome, style), Text(stage.detail, "dim"))
    return Group(table, Text(f"outputs  {found.store}", "dim", overflow="fold"))


def _held_to(stage: StageVerdict) -> str:
    bounds = "" if stage.tier == "bitwise" else f" ({stage.bounds})"
    return f"{stage.tier}{bounds}" + (", by its inputs" if stage.inherited else "")
