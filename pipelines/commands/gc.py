"""`lumina gc`: remove the outputs that no kept run needs."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import Json, StoreOption, open_store, show
from pipelines.errors import PipelineError


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
) -> None:
    """Remove the outputs that no kept run needs, and what killed runs left; shows what would go unless --yes is given.

    The newest run of every name is always kept, and the newest whole one: complete, and without --until.
    """
    from pipelines.engine.store.gc import Policy, collect, find_garbage
    from pipelines.reports.tables import collection_view

    if keep_runs is not None and older_than is not None:
        raise PipelineError("--keep-runs and --older-than are two rules for the same thing: give one of them")
    opened = open_store(store)
    opened.need_files("`lumina gc`")
    policy = Policy(keep_runs or 1, older_than, tuple(keep or ()))
    if not (opened.root / "stages").is_dir():
        raise PipelineError(f"store {opened.root} holds no outputs; give another with --store")
    found = collect(opened, policy) if yes else find_garbage(opened, policy)
    show(as_json, lambda: {"removed": yes, **found.as_dict()}, lambda: collection_view(found, removed=yes))
