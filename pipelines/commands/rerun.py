"""`lumina rerun`: compute a recorded run again, and say whether it came out the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from pipelines.commands.options import Json, RunArgument, StoreOption, open_store
from pipelines.terminal import Text, json_text, make_console, make_table

if TYPE_CHECKING:
    from pipelines.rerun.preflight import Check
    from pipelines.rerun.rerun import Rerun
    from pipelines.rerun.verdict import StageVerdict

_STATES = {"ok": ("✓", "green"), "differs": ("≠", "yellow"), "missing": ("✗", "bold red")}
_OUTCOMES = {"bitwise equal": "green", "within tolerance": "green", "within band": "green", "reused": "dim"}


def rerun(
    run: RunArgument = None,
    store: StoreOption = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Compute everything again, in a store of its own: the proof of reproduction."),
    ] = False,
    into: Annotated[
        Path | None, typer.Option(metavar="PATH", help="That store; implies --fresh. By default reruns/ in the store.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Compute this stage and what follows it again.")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Run this code in place of the recorded one.")] = False,
    override: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", metavar="KEY=VALUE", help="Another runtime.* setting; may be repeated."),
    ] = None,
    allow_env_drift: Annotated[
        bool, typer.Option("--allow-env-drift", help="Accept other versions of the packages that recipes name.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Compute a recorded run again with the code it ran with, and compare; see docs/reproduction.md.

    Exit code: 0 every stage meets its tier, 3 one does not, 4 not attempted, 1 error.
    """
    from pipelines.reports.diff_view import answer_text
    from pipelines.rerun.rerun import Options, RunFailed
    from pipelines.rerun.rerun import rerun as run_again

    console = make_console(stderr=as_json)
    opened = open_store(store)
    opened.need_files("`lumina rerun`")
    options = Options(fresh, into, start, here, tuple(override or ()), allow_env_drift)
    try:
        found = run_again(
            opened, run, options, lambda checks: console.print(_checks(checks)), sys.stderr if as_json else None
        )
    except RunFailed as error:
        raise typer.Exit(error.args[0]) from error
    if found.verdict is not None and found.difference is not None:
        if found.note:
            console.print(Text(found.note, "yellow"), soft_wrap=True)
        if not as_json:
            style = "bold green" if found.verdict.ok else "bold red"
            console.print(Text(found.verdict.answer, style), soft_wrap=True)
            console.print(answer_text(found.difference), soft_wrap=True)
            console.print(_verdict(found))
    if as_json:
        typer.echo(json_text(found.as_dict(), allow_nan=False))
    return found.exit_code


def _checks(checks: Sequence[Check]) -> RenderableType:
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
    if not any(check.state == "missing" for check in checks):
        return table
    return Group(table, Text("\nNothing was started.", "bold red"))


def _verdict(found: Rerun) -> RenderableType:
    """What the answer rests on, stage by stage."""
    if found.verdict is None:
        return Text("")
    table = make_table("stage", "held to", "verdict", "~")
    for stage in found.verdict.stages:
        style = _OUTCOMES.get(stage.outcome, "bold red")
        table.add_row(stage.name, Text(_held_to(stage), "dim"), Text(stage.outcome, style), Text(stage.detail, "dim"))
    return Group(table, Text(f"outputs  {found.store}", "dim", overflow="fold"))


def _held_to(stage: StageVerdict) -> str:
    bounds = "" if stage.tier == "bitwise" else f" ({stage.bounds})"
    return f"{stage.tier}{bounds}" + (", by its inputs" if stage.inherited else "")
