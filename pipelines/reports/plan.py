"""What `lumina plan` shows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.dag.plan import STATES, Plan
from pipelines.reports.progress import duration, state_text
from pipelines.verify.view import size


def plan_view(plan: Plan, root: Path, words: Sequence[str]) -> RenderableType:
    """A plan as a table with a line in bold, and what to do where the cost gate stops it.

    Args:
        plan: what is shown.
        root: the store.
        words: config, overrides and store, as the user gave them.
    """
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
    return Group(table, Text(_line(plan, root), "bold"), *_gate(plan, words))


def _line(plan: Plan, root: Path) -> str:
    counts = [f"{plan.count(state)} {state}" for state in STATES if plan.count(state)]
    line = f"{len(plan.stages)} stages: {', '.join(counts)}"
    if plan.seconds:
        line += f"; the work took {duration(plan.seconds)} last time, and wrote {size(plan.bytes)}"
    return f"{line}; outputs go to {root / 'stages'}" if plan.work else line


def _gate(plan: Plan, words: Sequence[str]) -> Iterable[RenderableType]:
    held = [stage for stage in plan.stages if stage.gated]
    if not held:
        return
    names = ", ".join(stage.name for stage in held)
    unknown = " if its inputs come out as before" if held[0].fingerprint is None else ""
    yield Text(
        f"\n`lumina run` stops at {held[0].name}{unknown}: only code has changed, and it took more than", "yellow"
    )
    yield Text(f"cost_gate_s. Held back: {names}. Compute it again, or keep its output:", "yellow")
    run = shlex.join(["lumina", "run", *words, "--rerun", held[0].name])
    keep = shlex.join(["lumina", "accept", held[0].name, *words])
    yield Padding(Text(run, overflow="fold"), (0, 0, 0, 2))
    yield Padding(Text(f'{keep} --reason "..."', overflow="fold"), (0, 0, 0, 2))
