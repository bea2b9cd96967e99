"""What `lumina plan` shows."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from pipelines.engine.plan import STATES, Plan
from pipelines.reports.progress import duration, state_text
from pipelines.terminal import Text
from pipelines.verify.view import size


def plan_view(plan: Plan, root: Path) -> RenderableType:
    """A plan as a table with a line in bold; `root` is the store's directory."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("last took", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("why", ratio=1)
    for stage in plan.stages:
        cost = duration(stage.last_seconds) if stage.last_seconds is not None else ""
        written = size(stage.last_bytes) if stage.last_bytes is not None else ""
        table.add_row(stage.name, state_text(stage.state), cost, written, Text(stage.reason))
    return Group(table, Text(_line(plan, root), "bold"))


def _line(plan: Plan, root: Path) -> str:
    counts = [f"{plan.count(state)} {state}" for state in STATES if plan.count(state)]
    line = f"{len(plan.stages)} stages: {', '.join(counts)}"
    if plan.seconds:
        line += f"; the work took {duration(plan.seconds)} last time, and wrote {size(plan.bytes)}"
    return f"{line}; outputs go to {root / 'stages'}" if plan.work else line
