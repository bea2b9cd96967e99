"""`lumina sweep`: several settings of one config, with what they share computed once, and compared on one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from pipelines.commands.options import ConfigArgument, Json, StoreOption, UntilOption, show
from pipelines.terminal import Text, command_line, log_to_terminal, make_console

if TYPE_CHECKING:
    from pipelines.engine.store.store import Store
    from pipelines.engine.store.sweep_record import SweepRecord
    from pipelines.sweep.arms import Sweep, SweepRun
    from pipelines.sweep.plan import SweepPlan

_REFRESH_S = 2.0
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
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time.", show_default="as many as this machine has cores or GPUs for"),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what is shared, cached and to do, and start nothing.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Run several settings of a config side by side; what they share is computed once.

    The same command goes on after any kill. Exit code: 0 all runs are done, 1 some failed, or an error; of --plan: 0
    nothing to do, 2 work to do, 1 error.
    """
    from pipelines.engine.store import open_store as stores
    from pipelines.sweep.arms import read_seeds, read_sweep
    from pipelines.sweep.plan import plan_sweep
    from pipelines.sweep.processes import capacity, check_parallel
    from pipelines.sweep.sweeping import check_record
    from pipelines.sweep.tables import sweep_plan_view

    read = read_sweep(config, override or [], arms, read_seeds(seeds), name, store)
    settings = read.runs[0].settings
    opened = stores.open_store(settings.store, settings.store_cache)
    check_record(read, opened)
    made = plan_sweep(read, opened, until)
    if plan:
        show(as_json, made.as_dict, lambda: sweep_plan_view(made))
        return made.exit_code
    at_once = parallel or capacity(settings.runtime, len(read.runs))
    check_parallel(at_once, settings.runtime)
    opened.prepare(settings.min_free_gb)
    words = ["lumina", "sweep", config, *(word for value in override or [] for word in ("-o", value))]
    given = {
        "--arms": arms,
        "--seeds": seeds,
        "--until": until,
        "--store": store,
        "--name": name,
        "--parallel": parallel,
    }
    words += [word for option, value in given.items() if value is not None for word in (option, str(value))]
    if not as_json:
        make_console().print(sweep_plan_view(made))
    return _bring_up(read, made, opened, until, at_once, command_line(words), as_json)


def _bring_up(
    sweep: Sweep, plan: SweepPlan, store: Store, until: str | None, parallel: int, command: str, as_json: bool
) -> int:
    """Run what is not done, with a line for each run that starts or ends, and below them how all stand."""
    from pipelines.engine.store.sweep_record import page_key, sweep_key
    from pipelines.reports.sweep_words import comparison_view
    from pipelines.sweep.processes import log_path, lumina_words
    from pipelines.sweep.sweeping import begin, bring_up
    from pipelines.sweep.tables import ended_line, sweep_view

    console = make_console(stderr=as_json)
    log_to_terminal()
    record = begin(sweep, plan, store, until, command)
    shown = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def changed(now: SweepRecord, run: SweepRun | None) -> None:
            nonlocal shown
            if run is not None:
                one = next(one for one in now.runs if one.name == run.name)
                said = f": {one.error}" if one.error else ""
                log = f"  {log_path(store, sweep.name, run.name)}" if one.state in ("running", "failed") else ""
                console.print(Text(f"{one.state:<8} {run.title}{said}{log}"), soft_wrap=True)
            if console.is_terminal and (run is not None or time.monotonic() - shown > _REFRESH_S):
                live.update(sweep_view(now, _doing(store, now)), refresh=True)
                shown = time.monotonic()

        swept = bring_up(record, sweep.runs, store, lumina_words(sweep, parallel, until, command), parallel, changed)
    console.print(sweep_view(swept.record))
    console.print(comparison_view(swept.record))
    console.print(ended_line(swept.record, swept.whole))
    console.print(
        Text("record     ", "bold").append(store.objects.name(sweep_key(sweep.name)), "default"), soft_wrap=True
    )
    console.print(
        Text("page       ", "bold").append(store.objects.name(page_key(sweep.name)), "default"), soft_wrap=True
    )
    if note := _track(sweep, store, swept.record):
        console.print(Text(note, "yellow"), soft_wrap=True)
    if as_json:
        typer.echo(swept.record.to_json(), nl=False)
    if swept.exit_code:
        console.print(Text("What is done is kept. The same command goes on with the rest:", "bold"))
        console.print(f"  {command}", soft_wrap=True)
    return swept.exit_code


def _track(sweep: Sweep, store: Store, record: SweepRecord) -> str:
    """Tell MLflow; what there is to say about that, if it has not all of it."""
    from pipelines.reports.page.sweep import sweep_page
    from pipelines.reports.sweep_words import answer
    from pipelines.tracking.mlflow_client import TrackerAwayError
    from pipelines.tracking.mlflow_sweeps import track_sweep
    from pipelines.tracking.uri import target, with_password

    if not any(run.run for run in record.runs):
        return ""
    uri = with_password(target(store, sweep.runs[0].settings.tracking_uri).uri)
    try:
        lacking = track_sweep(uri, store.uri, record, sweep_page(record, store.uri), answer(record))
    except TrackerAwayError as error:
        return f"MLflow is not told of the sweep: {error}; the same command does it once it can"
    if lacking:
        return f"MLflow does not have {', '.join(lacking)} yet: `lumina track` writes it, and the same command links it"
    return ""


def _doing(store: Store, record: SweepRecord) -> dict[str, str]:
    """What each run that is at work is at, as it tells of itself."""
    from pipelines.errors import StoreError
    from pipelines.reports.progress import pace
    from pipelines.reports.status import GOING, read_status

    found = {}
    for run in record.runs:
        if run.state != "running":
            continue
        try:
            status = read_status(store, run.name)
        except StoreError:
            continue  # it has said nothing yet
        if status.standing in GOING:
            now = time.time()
            busy = (
                f"{name} {row.detail or pace(row, now)}".strip()
                for name, row in status.stages.items()
                if row.state == "running" or (row.state == "waiting" and row.detail)
            )
            found[run.name] = "; ".join(busy) or status.awaits
    return found
