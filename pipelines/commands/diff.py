"""What `lumina diff` does."""

from __future__ import annotations

from pathlib import Path

import typer

from pipelines.commands.written import PAGE, check_file, write_page
from pipelines.compare.difference import read_diff
from pipelines.engine.store.store import Store
from pipelines.reports.diff_view import answer_text, difference_view
from pipelines.terminal import Text, json_text, make_console


def compare_runs(a: tuple[Store, str], b: tuple[Store, str], html: Path | None, as_json: bool) -> int:
    """Print what differs between two runs, and write the page if `html` names one.

    Args:
        a, b: a store, and the name or id of one of its runs.
        html: file to write; an older one is replaced.
        as_json: print JSON, with every row that changed.

    Returns:
        The exit code, see `Difference.exit_code`.

    Raises:
        StoreError: no such run, or an output cannot be read.
        PipelineError: the page cannot be written.
    """
    if html is not None:
        check_file("--html", html, begins=PAGE)
    found = read_diff((a[0], a[0].get_run(a[1])), (b[0], b[0].get_run(b[1])))
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
