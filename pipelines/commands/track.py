"""`lumina track`: write to MLflow what runs could not, or a recorded run for TensorBoard or Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from pipelines.commands.options import StoreOption, open_store
from pipelines.errors import PipelineError
from pipelines.terminal import make_console

if TYPE_CHECKING:
    from pipelines.engine.store.store import Store


def track(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Id of a run; all by default.")] = None,
    store: StoreOption = None,
    uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Write to this tracking server instead of the run's own.")
    ] = None,
    tracker: Annotated[
        Literal["mlflow", "tensorboard", "wandb"],
        typer.Option("--to", help="Or files of the run, the newest by default: events, or W&B's offline runs."),
    ] = "mlflow",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of these files; `tensorboard` or `wandb` in the store by default."),
    ] = None,
) -> None:
    """Write to MLflow what runs left unwritten; `run` does the same before it begins. Exit code: 0 done, 1 error."""
    from pipelines.tracking.journal import refused, run_of, waiting

    opened = open_store(store)
    if not opened.root.is_dir():
        raise PipelineError(f"there is no store {opened.root}; give another with --store")
    if tracker != "mlflow":
        if uri is not None:
            raise PipelineError(f"--uri is for MLflow: --to {tracker} writes files, and asks no server")
        _write_files(opened, run, tracker, out or opened.root / tracker)
        return
    if out is not None:
        raise PipelineError("--out is for --to tensorboard and --to wandb: MLflow's place is --uri")
    found = [path for path in waiting(opened.root, held=True) if run in (None, run_of(path))]
    if run is not None and not found:
        raise PipelineError(f"store {opened.root} has no unwritten records of a run {run!r}")
    console = make_console()
    if not found:
        put_aside = "".join(f", but for those that it refused: {path}" for path in refused(opened.root))
        console.print(f"MLflow has all records{put_aside}.", soft_wrap=True)
        return
    from pipelines.tracking.mlflow_client import TrackerAwayError, TrackerError
    from pipelines.tracking.replay import replay_waiting
    from pipelines.tracking.uri import target

    to = None if uri is None else target(opened, uri).uri
    failed: dict[str, TrackerError] = {}
    left_out = False
    for path in found:
        name = run_of(path)
        try:
            replayed = list(replay_waiting(opened, None, _say(console), name, to))
        except TrackerError as error:
            failed[name] = error
            continue
        for one in replayed:
            console.print(f"{one.uri}: {one.told()}", soft_wrap=True)
            left_out = left_out or bool(one.left_out)
        if not replayed and path.exists():
            console.print(f"run {name} still goes on, and writes its records itself", soft_wrap=True)
    if failed:
        away = all(isinstance(error, TrackerAwayError) for error in failed.values())
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        when = "when MLflow is back" if away else "once that is mended"
        raise PipelineError(
            f"these are still unwritten, and kept: {told}. Try again {when}, or name another with --uri"
        )
    if left_out:
        raise PipelineError("a part is still unwritten, and kept; see above for what to do, and try again")


def _write_files(store: Store, run: str | None, tracker: Literal["tensorboard", "wandb"], folder: Path) -> None:
    record = store.get_run(run)
    if tracker == "tensorboard":
        from pipelines.tracking.tensorboard import write_events

        written = write_events(store, record, folder)
        then = [f"tensorboard --logdir {folder}"]
    else:
        from pipelines.tracking.wandb_runs import write_wandb

        written = write_wandb(store, record, folder)
        then = [f"wandb sync {path}" for path in written]
    console = make_console()
    console.print(f"{len(written)} stages of run {record.run} are in {folder / record.run}", soft_wrap=True)
    for command in then:
        console.print(f"  {command}", soft_wrap=True)


def _say(console: Console) -> Callable[[str], None]:
    """Notes as lines that are not broken, so that their commands can be copied."""
    return lambda text: console.print(text, soft_wrap=True)
