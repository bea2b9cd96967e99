"""`lumina status`: where a run stands, from any terminal, or machine, that sees the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from lumina.formats import duration
from pipelines.commands.options import Json, RunArgument, StoreOption, open_store
from pipelines.reports.progress import stages_table
from pipelines.terminal import Text, json_text, make_console

if TYPE_CHECKING:
    from pipelines.reports.status import RunStatus

_REFRESH_S = 2.0
_STYLES = {
    "running": "bold cyan",
    "silent": "bold red",
    "done": "bold green",
    "failed": "bold red",
    "stopped": "bold yellow",
    "killed": "bold red",
}


def status(
    run: RunArgument = None,
    store: StoreOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until the run has ended.")] = False,
    as_json: Json = False,
) -> int:
    """Show where a run stands: its stages, rates, time left and errors.

    Exit: 0, or 1 if it failed, was killed, or has been silent for long though its process is there.

    Where the store is in a bucket, runs on other machines are seen, too.
    """
    from pipelines.reports.samples import newest_samples
    from pipelines.reports.status import GOING, read_status

    def view(height: int | None = None) -> RenderableType:
        return status_view(found, height, newest_samples(opened, found))

    opened = open_store(store)
    found = read_status(opened, run)
    console = make_console()
    if watch and not as_json:
        with Live(view(), console=console, auto_refresh=False, transient=True) as live:
            while found.standing in GOING:
                live.update(view(console.height - 8), refresh=True)
                time.sleep(_REFRESH_S)
                found = read_status(opened, found.run)
    if as_json:
        typer.echo(json_text(found.as_dict()))
    else:
        console.print(view(), soft_wrap=False)
        if found.standing in ("failed", "stopped", "killed") and found.command:
            console.print(Text("The same command continues it:", "bold"))
            console.print(f"  {found.command}", soft_wrap=True)
    return 1 if found.standing in ("failed", "killed", "silent") else 0


def status_view(
    found: RunStatus, height: int | None = None, samples: Mapping[str, Path] | None = None
) -> RenderableType:
    """The run on one screen: how it stands, its stages, its errors and where else to look, such as at the folders of
    the newest clips of stages that train."""
    now = found.ended or (time.time() if found.standing == "running" else found.heard)
    head = (
        Text(f"{found.run} ", "bold").append(f"({found.name}) ", "dim").append(found.standing, _STYLES[found.standing])
    )
    going = found.standing in ("running", "silent")
    if going:
        head.append(f" on {found.host}, process {found.pid}", "dim")
    if found.awaits and going:
        head.append(f", {found.awaits}, {duration(now - found.awaits_since)}", "yellow")
    parts: list[RenderableType] = [head, stages_table(found.stages, found.started, now, height)]
    waiting = _next(found)
    if waiting and found.standing == "running":
        parts.append(Text(f"next: {waiting}", "dim"))
    parts += [Text(f"{name}: {text.splitlines()[0] if text else 'failed'}", "red") for name, text in found.errors]
    parts += [Text(note, "dim") for note in found.notes]
    if found.standing == "killed":
        cause = "its process is gone" if found.is_here else f"its process is gone, or {found.host} is cut off"
        parts.append(Text(f"not heard of for {duration(time.time() - found.heard)}: {cause}", "bold red"))
    if found.standing == "silent":
        silent = (
            f"silent for {duration(time.time() - found.heard)}: process {found.pid} is there, but it may hang, its "
            "machine may be short of memory, or it cannot write to the store; wait, or stop it with Ctrl-C or kill and "
            "start it again: it continues"
        )
        parts.append(Text(silent, "bold red"))
    parts += [Text(f"newest clips of {name}  {path}", "dim") for name, path in (samples or {}).items()]
    parts += [Text(f"{name}  {address}", "dim") for name, address in found.links.items()]
    return Group(*parts)


def _next(found: RunStatus) -> str:
    """The pending stages for which only running ones are missing, and for which of them they wait."""
    ready = []
    for name, row in found.stages.items():
        missing = [one for one in found.upstream.get(name, []) if found.stages[one].state not in ("cached", "done")]
        if row.state == "pending" and missing and all(found.stages[one].state == "running" for one in missing):
            ready.append(f"{name} after {' and '.join(missing)}")
    return ", ".join(ready)
