"""`lumina track`: write to MLflow what runs could not, since it was away or they were killed."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import Debug, StoreOption, default_store, one_line_errors
from pipelines.errors import PipelineError
from pipelines.reports.progress import make_console


def track(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Id of a run; all by default.")] = None,
    store: StoreOption = None,
    uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Write to this tracking server instead of the run's own.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write to MLflow what runs left unwritten; `run` does the same before it begins. Exit code: 0 done, 1 error."""
    with one_line_errors(debug):
        from pipelines.storage.open_store import open_store
        from pipelines.tracking.journal import waiting

        opened = open_store(store or default_store())
        if not opened.root.is_dir():
            raise PipelineError(f"there is no store {opened.root}; give another with --store")
        found = [path for path in waiting(opened.root) if run in (None, path.stem)]
        if run is not None and not found:
            raise PipelineError(f"store {opened.root} has no unwritten records of a run {run!r}")
        console, away = make_console(), []
        if not found:
            console.print("MLflow has all records.")
            return
        from pipelines.tracking.replay import replay_waiting

        for path in found:
            try:
                replayed = list(replay_waiting(opened, None, console.print, path.stem, uri))
            except Exception as error:  # noqa: BLE001  (whatever a tracker does wrong, the other journals are tried)
                text = str(error).strip().splitlines()
                away.append(f"{path.stem}: {text[0] if text else type(error).__name__}")
                continue
            for one in replayed:
                console.print(f"{one.uri}: {one.told()}", soft_wrap=True)
            if not replayed and path.exists():
                console.print(f"run {path.stem} still goes on, and writes its records itself", soft_wrap=True)
        if away:
            raise PipelineError(
                f"these are still unwritten, and kept: {'; '.join(away)}. Try again when MLflow is back, or name "
                "another with --uri"
            )
