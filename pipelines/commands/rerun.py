"""`lumina rerun`: compute a recorded run again, and say whether it came out the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Json, RunArgument, StoreOption, open_store
from pipelines.terminal import Text, json_text, make_console


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
    from pipelines.diff.view import answer_text as difference_text
    from pipelines.rerun.rerun import Options, RunFailed
    from pipelines.rerun.rerun import rerun as run_again
    from pipelines.rerun.view import answer_text, checks_view, verdict_view

    console = make_console(stderr=as_json)
    opened = open_store(store)
    opened.need_files("`lumina rerun`")
    options = Options(fresh, into, start, here, tuple(override or ()), allow_env_drift)
    try:
        found = run_again(
            opened, run, options, lambda checks: console.print(checks_view(checks)), sys.stderr if as_json else None
        )
    except RunFailed as error:
        raise typer.Exit(error.args[0]) from error
    if found.verdict is not None and found.difference is not None:
        if found.note:
            console.print(Text(found.note, "yellow"), soft_wrap=True)
        if not as_json:
            console.print(answer_text(found.verdict), soft_wrap=True)
            console.print(difference_text(found.difference), soft_wrap=True)
            console.print(verdict_view(found))
    if as_json:
        typer.echo(json_text(found.as_dict(), allow_nan=False))
    return found.exit_code
