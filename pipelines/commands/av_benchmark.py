"""`lumina av-benchmark`: FD, KL, IS and DeSync of an evaluation's sounds, by the code behind published figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from pipelines.commands.options import Json, StoreOption, open_store, show
from pipelines.commands.written import check_new_folder
from pipelines.errors import PipelineError, did_you_mean
from pipelines.terminal import Text, make_table

if TYPE_CHECKING:
    from rich.table import Table

_SOUNDS, _BENCHMARK = "sounds", "benchmark"
"""Folders of `--work`."""


def av_benchmark(
    evaluation: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|DIR]", help="Run, by name or id, or the output of its stage evaluate@N; the newest run."
        ),
    ] = None,
    python: Annotated[
        Path, typer.Option(metavar="PYTHON", help="Interpreter of the environment with av-benchmark.")
    ] = Path("python"),
    checkout: Annotated[Path, typer.Option(metavar="DIR", help="Clone of hkchengrex/av-benchmark.")] = Path(
        "av-benchmark"
    ),
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for its caches and log; what the command left there goes.")
    ] = Path("av_benchmark"),
    stage: Annotated[
        str | None, typer.Option(metavar="evaluate@N", help="Which evaluation of the run.", show_default="the last")
    ] = None,
    condition: Annotated[str, typer.Option(metavar="NAME", help="Sounds made under which condition.")] = "given",
    films: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Films as CLIP_ID.mp4: ImageBind's score and DeSync too, from 4.8 s on."),
    ] = None,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Have an evaluation's sounds judged by av-benchmark, in the environment that it has for itself.

    The true sounds are those of the clips at the codec's level. It wants a GPU.
    """
    _check_work(work)
    from lumina.video_to_audio.av_benchmark import run_av_benchmark, sound_folders

    folder = _in_folder(Path(evaluation), stage) if evaluation and Path(evaluation).is_dir() else None
    folder = folder or _in_run(evaluation, stage, store)
    folders = sound_folders(folder, work / _SOUNDS, condition)
    shown = None if films is None else _films(films, folders.clips)
    found = run_av_benchmark(python, checkout, folders, work / _BENCHMARK, shown)
    count = len(folders.clips)
    show(
        as_json,
        lambda: {"condition": condition, "clips": count, "figures": found},
        lambda: Group(Text(f"Sounds of {count} clips ({condition}) by av-benchmark", "bold"), _table(found)),
    )


def _check_work(work: Path) -> None:
    """What is there is removed, so it must be this command's."""
    if not work.is_dir():
        check_new_folder("--work", work)
        return
    for path in sorted(work.iterdir()):
        if path.name not in (_SOUNDS, _BENCHMARK):
            raise PipelineError(f"--work {work} holds {path.name}, which is not of this command: name a new folder")


def _in_folder(folder: Path, stage: str | None) -> Path:
    """The output of an evaluation."""
    from jobs.evaluate_sound import SCHEMA
    from lumina.evaluation.selection import METRICS_FILE
    from lumina.files import read_json

    if stage is not None:
        raise PipelineError(f"--stage {stage}: {folder} is a folder; name a run, or leave it out")
    try:
        content = read_json(folder / METRICS_FILE)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{folder} is no evaluation's output: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise PipelineError(f"{folder} is no evaluation of sounds: name the output of a stage evaluate@N of such a run")
    return folder


def _in_run(name: str | None, stage: str | None, store: str | None) -> Path:
    """The output of an evaluation of a recorded run."""
    from pipelines.compare.runs import read_side
    from pipelines.reports.sounds import read_sounds

    opened = open_store(store)
    record = opened.get_run(name)
    side = read_side(opened, record)
    there = list(read_sounds(side).evaluations)
    if not there:
        gone = next((held.problem for held in side.stages.values() if held.problem), "")
        raise PipelineError(f"run {record.run} has no evaluation of sounds" + (f": {gone}" if gone else ""))
    if stage is not None and stage not in there:
        known = ", ".join(there)
        raise PipelineError(f"--stage {stage}: no evaluation of it; {did_you_mean(stage, there, f'there are {known}')}")
    output = side.stages[stage or there[-1]].output
    assert output is not None  # noqa: S101 - what was read is there
    return output.fetch("data/", "sounds/")


def _films(folder: Path, clips: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise PipelineError(f"--films {folder} is no folder: name one with a CLIP_ID.mp4 for each clip")
    return {clip: path for clip in clips if (path := folder / f"{clip}.mp4").is_file()}


def _table(figures: Mapping[str, float]) -> Table:
    from lumina.formats import figure

    table = make_table("figure", ">value")
    for name, value in figures.items():
        table.add_row(name, figure(value))
    return table
