"""`lumina report`: a run on one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lumina.formats import size
from pipelines.commands.options import Debug, StoreOption, default_store, one_line_errors
from pipelines.commands.written import PAGE, check_file, write_page
from pipelines.terminal import Text, make_console


def report(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name or id; the newest by default.")] = None,
    store: StoreOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write; an older one is replaced.")] = Path(
        "report.html"
    ),
    debug: Debug = False,
) -> None:
    """Write a run's page: system prompts compared, clips side by side, curves, stages, commands to get it again."""
    with one_line_errors(debug):
        from pipelines.engine.store.open_store import open_store
        from pipelines.reports.page.make import make_page

        check_file("--out", out, begins=PAGE)
        opened = open_store(store or default_store())
        page = make_page(opened, opened.get_run(run))
        write_page("--out", out, page)
        make_console().print(Text(f"The page: {out.resolve()} ({size(len(page.encode()))})"), soft_wrap=True)
