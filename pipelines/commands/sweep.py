"""`lumina sweep`: several settings of one config, with what they share computed once, and compared on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import ConfigArgument, Json, StoreOption, UntilOption, show

SweepOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=A,B,C",
        help="An arm for each value; several of these make a grid. One value is every arm's. A value with commas goes "
        "in quotes, unless it is a list or mapping: KEY=[a,b],[c].",
    ),
]


def sweep(
    config: ConfigArgument,
    override: SweepOverrides = None,
    arms: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Named arms: YAML `name: {key: value}`, or CSV with a column name."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1", help="Train every arm with each of these seeds: shows what noise is.")
    ] = None,
    until: UntilOption = None,
    store: StoreOption = None,
    name: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Name of the sweep; its runs are named after it.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what is shared, cached and to do, and start nothing.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Run several settings of a config side by side; what they share is computed once.

    Exit code of --plan: 0 nothing to do, 2 work to do, 1 error.
    """
    from pipelines.engine.store import open_store as stores
    from pipelines.sweep.arms import read_seeds, read_sweep
    from pipelines.sweep.plan import plan_sweep
    from pipelines.sweep.tables import sweep_plan_view

    read = read_sweep(config, override or [], arms, read_seeds(seeds), name, store)
    settings = read.runs[0].settings
    made = plan_sweep(read, stores.open_store(settings.store, settings.store_cache), until)
    show(as_json, made.as_dict, lambda: sweep_plan_view(made))
    return made.exit_code
