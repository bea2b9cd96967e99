"""What `lumina plan` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from lumina.formats import duration, size
from pipelines.engine.plan import STATES, Plan
from pipelines.reports.progress import state_text
from pipelines.terminal import Text, command_line


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


def gate_lines(plan: Plan, words: Sequence[str]) -> list[str]:
    """What to do where the cost gate will stop a run: a sentence and two commands; nothing where it will not.

    `words` are config, overrides and store, as the user gave them.
    """
    held = [stage.name for stage in plan.stages if stage.gated]
    if not held:
        return []
    first = next(stage for stage in plan.stages if stage.gated)
    unknown = ", if its inputs come out as before" if first.fingerprint is None else ""
    more = f" So it is with {', '.join(held[1:])}; `all` names them together." if held[1:] else ""
    return [
        f"`lumina run` stops at {held[0]}{unknown}: only its code has changed, and it took more than cost_gate_s."
        f"{more} Compute it again, or keep its output:",
        "  " + command_line(["lumina", "run", *words, "--rerun", held[0]]),
        "  " + command_line(["lumina", "accept", held[0], *words]) + ' --reason "..."',
    ]
