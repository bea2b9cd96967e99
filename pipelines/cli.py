"""The command line. Heavy imports stand inside the commands that need them."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands import cluster, jobs
from pipelines.commands.assemble import assemble
from pipelines.commands.jobs import submit
from pipelines.commands.models import convert, cost, generate, probe
from pipelines.commands.options import (
    ConfigArgument,
    Debug,
    Json,
    NameOption,
    Overrides,
    RecomputeOption,
    StoreOption,
    UntilOption,
    all_overrides,
    default_store,
    one_line_errors,
)
from pipelines.commands.report import report
from pipelines.commands.rerun import rerun
from pipelines.commands.status import status
from pipelines.commands.track import track
from pipelines.commands.written import check_file
from pipelines.errors import PipelineError
from pipelines.terminal import Text, json_text, log_to_terminal, make_console, plain

if TYPE_CHECKING:
    from pipelines.config import PipelineConfig
    from pipelines.engine.store.store import Store

app = typer.Typer(
    help="Raw clips to a fine-tuned text-to-video checkpoint in one DAG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def run(
    config: ConfigArgument,
    override: Overrides = None,
    until: UntilOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    recompute: RecomputeOption = None,
    continue_with: Annotated[str | None, typer.Option(hidden=True, help="What the user types to go on.")] = None,
    debug: Debug = False,
) -> None:
    """Run the pipeline; a second run does only what changed."""
    with one_line_errors(debug):
        from pipelines.supervisor import supervise

        with supervise() as link:
            from pipelines.commands.run import run_pipeline

            settings, opened = _open(config, override, store, name)
            words = [config, *_options(override, store), *(["--name", name] if name else [])]
            run_pipeline(settings, opened, until, recompute or [], words, link, continue_with)


@app.command()
def plan(
    config: ConfigArgument,
    override: Overrides = None,
    until: UntilOption = None,
    store: StoreOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what would run, and why. Exit code: 0 nothing to do, 2 work to do, 1 error.

    cached: its output is there. resume: unfinished work is. run: its config, inputs, weights or libraries changed.
    drift: nothing but its code did, and it is computed again. unknown: an input is not computed yet. blocked: it cannot
    run. --json has every difference, old and new.
    """
    with one_line_errors(debug):
        from pipelines.engine.plan import plan as make_plan
        from pipelines.reports.tables import plan_view
        from pipelines.text_to_video import build

        settings, opened = _open(config, override, store, None)
        made = make_plan(build(settings).until(until), opened, drift=settings.drift_policy())
        if as_json:
            typer.echo(json_text(made.as_dict()))
        else:
            console = make_console()
            console.print(plan_view(made, opened.root))
    raise typer.Exit(made.exit_code)


@app.command()
def compare(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the system prompts of a run side by side, the choice, and the fine-tuned model."""
    with one_line_errors(debug):
        from pipelines.diff.runs import read_side
        from pipelines.engine.store.open_store import open_store
        from pipelines.reports.evaluations import as_dict, comparison_view, read_evaluations

        opened = open_store(store or default_store())
        record = opened.get_run(run)
        found = read_evaluations(read_side(opened, record))
        if as_json:
            typer.echo(json_text({"run": record.run, **as_dict(found)}))
            return
        console = make_console()
        console.print(Text(f"Run {record.run} ({record.name}, {record.started})", "dim"))
        console.print(comparison_view(found))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Name or id of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Name or id of the run to compare it with.")],
    store: StoreOption = None,
    other_store: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Where the outputs of B are kept, if elsewhere.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with curves and clips too.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what differs between two runs; the first line is the answer.

    Exit code: 0 equal, 3 the same digests but another recipe or figure, 4 different, 1 error.
    """
    with one_line_errors(debug):
        from pipelines.commands.diff import compare_runs
        from pipelines.engine.store.open_store import open_store

        first = open_store(store or default_store())
        exit_code = compare_runs((first, a), (open_store(other_store) if other_store else first, b), html, as_json)
    raise typer.Exit(exit_code)


@app.command()
def selection(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Run to compare with; the one before by default.")
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what each rule of the selection removed of each source, and what another policy changed."""
    with one_line_errors(debug):
        from pipelines.engine.store.open_store import open_store
        from pipelines.reports import selection as report
        from pipelines.reports.selection_tables import difference_view, selection_view

        opened = open_store(store or default_store())
        record = opened.get_run(run)
        before = report.previous(opened, record) if other is None else opened.get_run(other)
        found = report.read_selection(opened, record)
        difference = report.read_difference(opened, before, record) if before else None
        if as_json:
            content = {"selection": report.as_dict(found), "difference": difference and report.as_dict(difference)}
            typer.echo(json_text(content))
            return
        console = make_console()
        console.print(selection_view(found, console.width))
        if difference is None:
            console.print(Text(f"No earlier selection of {record.name} to compare with.", "dim"))
        else:
            console.print(difference_view(difference, console.width))


@app.command()
def quarantine(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    filtered_too: Annotated[bool, typer.Option("--all", help="Count filtered clips too.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one row per clip that was set aside.")] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="REASON", help="Put clips back: the next run tries them once more.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show which clips a run set aside, at which stage and why, and how to look at one."""
    with one_line_errors(debug):
        from pipelines.engine.store.open_store import open_store
        from pipelines.reports.quarantine import csv_header, put_back, quarantine_view, read_quarantine, write_csv

        if csv is not None:
            check_file("--csv", csv, begins=csv_header(), makes_folder=True)
        opened = open_store(store or default_store())
        if retry is not None:
            for stage, count in put_back(opened, opened.get_run(run), retry).items():
                make_console().print(f"{stage}: {count:,} clips are put back; the next `lumina run` tries them again")
            return
        found = read_quarantine(opened, opened.get_run(run), filtered_too)
        if csv is not None:
            write_csv(found.clips, csv)
        if as_json:
            written = {"csv": str(csv.resolve())} if csv else {}
            typer.echo(json_text(found.as_dict() | written))
            return
        console = make_console()
        console.print(quarantine_view(found), crop=False)  # a command is whole, or of no use
        if csv is not None:
            console.print(f"{len(found.clips):,} rows in {csv.resolve()}", soft_wrap=True)
        elif found.clips:
            console.print(Text("--csv FILE writes them all.", "dim"))


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file; compute content digests again.")] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Read all rows, and name those that are wrong.")] = False,
    repair: Annotated[bool, typer.Option("--mend", help="Have the next run compute again what is damaged.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check that a run's outputs are what it left; nothing is executed. Exit code: 0 intact, 4 not, 1 error."""
    with one_line_errors(debug):
        from pipelines.engine.store.open_store import open_store
        from pipelines.verify.check import verify as check
        from pipelines.verify.mend import mend
        from pipelines.verify.view import verification_view

        opened = open_store(store or default_store())
        found = check(opened, run, deep, rows)
        found = mend(opened, found) if repair else found
        if as_json:
            typer.echo(json_text(found.as_dict()))
        else:
            make_console().print(verification_view(found))
    raise typer.Exit(found.exit_code)


@app.command()
def gc(
    store: StoreOption = None,
    keep_runs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Keep the newest N runs of every name.", show_default="1")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Instead: keep all runs that are younger.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="RUN", help="Keep this one too; may be repeated.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove the outputs that no kept run needs, and what killed runs left; shows what would go unless --yes is given.

    The newest run of every name is always kept, and the newest whole one: complete, and without --until.
    """
    with one_line_errors(debug):
        from pipelines.engine.store.gc import Policy, collect, find_garbage
        from pipelines.engine.store.open_store import open_store
        from pipelines.reports.tables import collection_view

        if keep_runs is not None and older_than is not None:
            raise PipelineError("--keep-runs and --older-than are two rules for the same thing: give one of them")
        opened = open_store(store or default_store())
        opened.need_files("`lumina gc`")
        policy = Policy(keep_runs or 1, older_than, tuple(keep or ()))
        if not (opened.root / "stages").is_dir():
            raise PipelineError(f"store {opened.root} holds no outputs; give another with --store")
        found = collect(opened, policy) if yes else find_garbage(opened, policy)
        if as_json:
            typer.echo(json_text({"removed": yes, **found.as_dict()}))
        else:
            make_console().print(collection_view(found, removed=yes))


for command in (report, rerun, status, submit, track, probe, generate, convert, assemble, cost):
    app.command()(command)
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Entry point of the console script."""
    log_to_terminal()
    try:
        app()
    except Exception:  # noqa: BLE001  (--debug, or what nobody foresaw; its text is anybody's)
        sys.stderr.write(plain(traceback.format_exc()))
        sys.exit(1)


def _open(config: str, override: list[str] | None, store: str | None, name: str | None) -> tuple[PipelineConfig, Store]:
    from pipelines.config import load_config
    from pipelines.engine.store.open_store import open_store

    settings = load_config(config, all_overrides(override, name, store))
    return settings, open_store(settings.store, settings.store_cache)


def _options(override: list[str] | None, store: str | None) -> list[str]:
    """The options that name the same pipeline and store again."""
    return [item for value in override or [] for item in ("-o", value)] + (["--store", store] if store else [])
