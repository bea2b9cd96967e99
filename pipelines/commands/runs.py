"""Commands that look into recorded runs: compare, diff, selection, quarantine, verify and report.

Heavy imports stand inside the commands that need them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from lumina.formats import size
from pipelines.commands.options import Json, RunArgument, StoreOption, open_store, show
from pipelines.commands.written import PAGE, check_file, write_page
from pipelines.terminal import Text, json_text, make_console


def compare(run: RunArgument = None, store: StoreOption = None, as_json: Json = False) -> None:
    """Show the system prompts of a run side by side, the choice, the fine-tuned model, and studies of it.

    Of a video-to-audio run: every condition of its evaluations, and its checkpoints against each other.
    """
    from pipelines.compare.runs import read_side
    from pipelines.reports.evaluations import as_dict, comparison_view, read_evaluations
    from pipelines.reports.sounds import read_sounds, sounds_view
    from pipelines.reports.studies import plain_study, read_studies, studies_view

    opened = open_store(store)
    record = opened.get_run(run)
    side = read_side(opened, record)
    head = Text(f"Run {record.run} ({record.name}, {record.started})", "dim")
    if (sounds := read_sounds(side)).evaluations:
        show(as_json, lambda: {"run": record.run, **sounds.as_dict()}, lambda: Group(head, sounds_view(sounds)))
        return
    found, studies = read_evaluations(side), read_studies(side)
    told = {"studies": {name: plain_study(one) for name, one in studies.items()}} if studies else {}
    show(
        as_json,
        lambda: {"run": record.run, **as_dict(found), **told},
        lambda: Group(head, comparison_view(found), studies_view(studies)),
    )


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Name or id of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Name or id of the run to compare it with.")],
    store: StoreOption = None,
    other_store: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Where the outputs of B are kept, if elsewhere.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with curves and clips too.")] = None,
    as_json: Json = False,
) -> int:
    """Show what differs between two runs; the first line is the answer.

    Exit code: 0 equal, 3 the same digests but another recipe or figure, 4 different, 1 error.
    """
    from pipelines.compare.difference import read_diff
    from pipelines.reports.diff_view import answer_text, difference_view

    if html is not None:
        check_file("--html", html, begins=PAGE)
    first = open_store(store)
    second = open_store(other_store) if other_store else first
    found = read_diff((first, first.get_run(a)), (second, second.get_run(b)))
    if html is not None:
        from pipelines.reports.page.diff import make_page

        write_page("--html", html, make_page(found))
    if as_json:
        typer.echo(json_text(found.as_dict(), allow_nan=False))
        return found.exit_code
    console = make_console()
    # One line, however wide the terminal: scripts read it.
    console.print(answer_text(found), soft_wrap=True)
    console.print(difference_view(found))
    if html is not None:
        console.print(Text(f"\nThe page: {html.resolve()}"), soft_wrap=True)
    return found.exit_code


def selection(
    run: RunArgument = None,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Run to compare with; the one before by default.")
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Show what each rule of the selection removed of each source, and what another policy changed."""
    from pipelines.reports import selection as report
    from pipelines.reports.selection_tables import difference_view, selection_view

    opened = open_store(store)
    record = opened.get_run(run)
    before = report.previous(opened, record) if other is None else opened.get_run(other)
    found = report.read_selection(opened, record)
    difference = report.read_difference(opened, before, record) if before else None
    width = make_console().width
    none = Text(f"No earlier selection of {record.name} to compare with.", "dim")
    show(
        as_json,
        lambda: {"selection": found, "difference": difference},
        lambda: Group(selection_view(found, width), difference_view(difference, width) if difference else none),
    )


def quarantine(
    run: RunArgument = None,
    store: StoreOption = None,
    filtered_too: Annotated[bool, typer.Option("--all", help="Count filtered clips too.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one row per clip that was set aside.")] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="REASON", help="Put clips back: the next run tries them once more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which clips a run set aside, at which stage and why, and how to look at one."""
    from pipelines.reports import quarantine as report

    if csv is not None:
        check_file("--csv", csv, begins=report.csv_header(), makes_folder=True)
    opened = open_store(store)
    record = opened.get_run(run)
    if retry is not None:
        for stage, count in report.put_back(opened, record, retry).items():
            make_console().print(f"{stage}: {count:,} clips are put back; the next `lumina run` tries them again")
        return
    found = report.read_quarantine(opened, record, filtered_too)
    if csv is not None:
        report.write_csv(report.clips_set_aside(opened, record, filtered_too), csv)
    if as_json:
        written = {"csv": str(csv.resolve())} if csv else {}
        typer.echo(json_text(asdict(found) | written))
        return
    console = make_console()
    console.print(report.quarantine_view(found), crop=False)  # a command is whole, or of no use
    if csv is not None:
        console.print(f"{found.set_aside:,} rows in {csv.resolve()}", soft_wrap=True)
    elif found.counts:
        console.print(Text("--csv FILE writes them all.", "dim"))


def verify(
    run: RunArgument = None,
    store: StoreOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file; compute content digests again.")] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Read all rows, and name those that are wrong.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Have the next run compute again what is damaged.")] = False,
    as_json: Json = False,
) -> int:
    """Check that a run's outputs are what it left; nothing is executed. Exit code: 0 intact, 4 not, 1 error."""
    from pipelines.compare.verification import repair as repair_damaged
    from pipelines.compare.verify import verify as check
    from pipelines.reports.verify_view import verification_view

    opened = open_store(store)
    found = check(opened, run, deep, rows)
    found = repair_damaged(opened, found) if repair else found
    show(as_json, found.as_dict, lambda: verification_view(found))
    return found.exit_code


def report(
    run: RunArgument = None,
    store: StoreOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write; an older one is replaced.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a run's page: system prompts compared, clips side by side, curves, stages, commands to get it again.

    Of a video-to-audio run: clips with the sounds of every condition, beside their spectrograms and true events.
    """
    from pipelines.reports.page.make import make_page

    check_file("--out", out, begins=PAGE)
    opened = open_store(store)
    page = make_page(opened, opened.get_run(run))
    write_page("--out", out, page)
    make_console().print(Text(f"The page: {out.resolve()} ({size(len(page.encode()))})"), soft_wrap=True)
