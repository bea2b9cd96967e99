"""`lumina cluster`: look at cluster files before they reach a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import Json, Overrides, add_commands, pairs
from pipelines.commands.written import check_file
from pipelines.errors import PipelineError
from pipelines.terminal import Text, json_text, make_console

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig
    from pipelines.cluster.check import Checked

_FILLED = "NAME=VALUE, such as IMAGE=registry/lumina-video@sha256:..."

app = typer.Typer(help="Files that describe a Ray cluster.", no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Files that describe a Ray cluster."""


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="For `ray up`, or a RayJob for `kubectl apply`.")],
    values: Annotated[
        list[str] | None,
        typer.Option("--fill", metavar="NAME=VALUE", help="Write VALUE in the place of <NAME>; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the file as it was filled in.")] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="Hold the cluster's size against this; else what a RayJob starts."),
    ] = None,
    override: Overrides = None,
    as_json: Json = False,
) -> int:
    """Check a cluster file without a cluster: by schema, for secrets, and against the config that it is to run.

    Exit code: 0 nothing to mend, 1 else.
    """
    from pipelines.cluster.check import check as look

    if override and config is None:
        raise PipelineError("-o changes a config, and none is named: give one with --config")
    if out is not None:
        check_file("--out", out)
    found = look(file, pairs("--fill", values, _FILLED), _runtime(config, override))
    if as_json:
        typer.echo(json_text(found.as_dict()))
    else:
        _show(found)
    if out is not None:
        if not found.problems:
            out.write_text(found.text, encoding="utf-8")
        told = f"Written to {out}" if not found.problems else f"{out} is not written while something is to mend"
        make_console(stderr=True).print(told, soft_wrap=True)
    return 1 if found.problems else 0


def _runtime(config: str | None, override: list[str] | None) -> RuntimeConfig | None:
    if config is None:
        return None
    from pipelines.config import load_config

    return load_config(config, override or [], needs_clips=False).runtime


def _show(found: Checked) -> None:
    from pipelines.cluster.check import KINDS

    console = make_console()
    for problem in found.problems:
        where = Text(f"{found.file}:{problem.line}: ", "bold").append(problem.where, "cyan")
        words = f"{': ' if problem.where else ''}{problem.message}"
        console.print(where.append(words, "default"), soft_wrap=True)
    if found.problems:
        unfilled = all("is a placeholder" in problem.message for problem in found.problems)
        told = f"{len(found.problems)} to mend{'; nothing else is wrong' if unfilled else ''}"
        console.print(Text(told, "bold red"))
        return
    for pool in found.pools:
        number = "1, the head" if pool.head else f"{pool.min} to {pool.max}"
        each = ", ".join(f"{amount:g} {name}" for name, amount in pool.resources.items())
        console.print(Text(f"{pool.name}: {number}; each {each}"), soft_wrap=True)
    told = f"{found.file}: a file for {KINDS[found.kind]} and Ray {found.ray}, nothing to mend"
    console.print(Text(told, "green"), soft_wrap=True)


add_commands(app, check=check)
