"""`lumina vbench`: a checkpoint, or a folder of anybody's clips, judged by VBench."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.progress import Progress

from lumina.hub import PREFIX
from lumina.precision import Precision
from pipelines.commands.generate_many import Options, check_folder, generate_rows, stoppable
from pipelines.commands.options import width_and_height
from pipelines.errors import PipelineError
from pipelines.terminal import Text, clean, command_line, in_line, make_console, make_table

if TYPE_CHECKING:
    from jobs.vbench import JudgeConfig
    from lumina.prompt_files import PromptRow
    from lumina.vbench.prompts import VBenchPrompt
    from lumina.vbench.report_files import Report

CLIPS = "clips"
"""Folder of the clips that are generated, in `--out`."""


def vbench(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CHECKPOINT]", help="Exported checkpoint directory, or hf:owner/name.")
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Instead of a checkpoint: clips named PROMPT-INDEX.mp4, anybody's."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for clips, scores, vbench.json and vbench.html.")
    ] = Path("vbench"),
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="VBench_full_info.json.", show_default="that of an installed vbench"),
    ] = None,
    dimensions: Annotated[
        str | None, typer.Option(metavar="A,B", help="Dimensions to judge.", show_default="all")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=5, help="Clips of a prompt: 5 officially; the paper's fractions imply 3.")
    ] = 5,
    augmented: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or JSON Lines with prompt and text: what the model is told instead."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Weights of a judge: dino, clip_b32, clip_l14, aesthetic, raft, human_action, actions; may be "
            "repeated.",
        ),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(metavar="PYTHON", help="Interpreter of an environment with the official vbench."),
    ] = None,
    official: Annotated[
        list[str] | None,
        typer.Option(metavar="DIMENSION", help="Score it by the official code, though it has a judge here; or `all`."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose system prompt; the exported default otherwise.")
    ] = None,
    seed: Annotated[int, typer.Option(help="A clip's noise is drawn for it, its prompt and its index.")] = 0,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Released sampling settings, e.g. f16F64R512-MultiScale.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels; optical flow needs 128 a side.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="1, or a multiple of 4 from 8 on.")] = None,
    fps: Annotated[float | None, typer.Option(min=1, help="Frame rate of the files.")] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Type in which the checkpoint computes; auto is bfloat16 on a GPU.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers at most.", show_default="every GPU, or the CPUs that fit")
    ] = None,
) -> int:
    """Judge a checkpoint, or a folder of clips, by VBench's dimensions, with intervals.

    Clips and scores are kept in --out: killed at any time, the same command goes on, and nothing is scored twice. A
    dimension that cannot be scored is named with what it needs; a total needs all sixteen. Exit code: 0, 1 if a clip
    failed, 130 after Ctrl-C.
    """
    if (checkpoint is None) == (videos is None):
        raise PipelineError("give either a CHECKPOINT to make clips with, or --videos DIR with clips")
    check_folder(out)
    asked = _dimensions(dimensions)
    config = _judges(weights or [], python, official or [])
    console = make_console()
    if videos is not None:
        return _judge_folder(videos, prompts, asked, samples, config, out, console)
    assert checkpoint is not None  # noqa: S101 - one of both is given
    if not checkpoint.startswith(PREFIX) and not Path(checkpoint).is_dir():
        raise PipelineError(f"{checkpoint} is no directory: name an exported checkpoint, or hf:owner/name")
    from lumina.vbench.augmented import read_augmented
    from lumina.vbench.dimensions import DIMENSIONS
    from lumina.vbench.prompts import find_prompts, read_prompts

    file = find_prompts(prompts)
    found = read_prompts(file, asked)
    told = read_augmented(augmented, found) if augmented is not None else {}
    rows = _rows(found, samples, config, told, seed)
    options = Options(
        adapter=None,
        adapter_scale=1.0,
        source=source,
        negative_prompt="",
        seed=seed,
        motion=None,
        preset=preset,
        steps=steps,
        size=width_and_height(size) if size else None,
        frames=frames,
        fps=fps,
        dtype=dtype,
        attention="auto",
        # Frames are judged whole: tiles would change them.
        tiling=False,
        offload="auto",
        workers=workers,
    )
    typed = command_line(["lumina", *sys.argv[1:]])
    code = generate_rows(checkpoint, rows, str(file), out / CLIPS, options, typed, console)
    if code not in (0, 1):
        return code
    present = [row.file for row in rows if (out / CLIPS / row.file).is_file()]
    plan = _Plan(checkpoint, out / CLIPS, present, found, file, samples)
    return max(code, _judge(plan, asked or tuple(DIMENSIONS), config, out, typed, console))


def _dimensions(text: str | None) -> tuple[str, ...]:
    from lumina.vbench.dimensions import DIMENSIONS

    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if name not in DIMENSIONS:
            raise PipelineError(f"--dimensions {name}: unknown; {_near(name, DIMENSIONS)}")
    return names


def _near(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def _judges(weights: Sequence[str], python: Path | None, official: Sequence[str]) -> JudgeConfig:
    from jobs.vbench import JudgeConfig
    from lumina.vbench.dimensions import DIMENSIONS
    from lumina.vbench.judges import VBenchWeights

    places: dict[str, str] = {}
    for one in weights:
        name, equals, place = one.partition("=")
        if not equals or not place:
            raise PipelineError(f"--weights {one}: expected NAME=PATH")
        if name not in VBenchWeights.model_fields:
            raise PipelineError(f"--weights {name}: unknown; {_near(name, VBenchWeights.model_fields)}")
        if not Path(place).exists() and not place.startswith(PREFIX):
            raise PipelineError(f"--weights {one}: there is no {place}")
        places[name] = place
    for name in official:
        if name != "all" and name not in DIMENSIONS:
            raise PipelineError(f"--official {name}: unknown; {_near(name, [*DIMENSIONS, 'all'])}")
    if official and python is None:
        raise PipelineError("--official needs --python, the interpreter of an environment with the official vbench")
    return JudgeConfig(weights=VBenchWeights(**places), python=python, official=tuple(official))


def _filters(config: JudgeConfig) -> bool:
    return config.weights.raft is not None and "temporal_flickering" not in config.official


def _rows(
    found: Sequence[VBenchPrompt], samples: int, config: JudgeConfig, told: Mapping[str, str], seed: int
) -> list[PromptRow]:
    """A row for each clip; its seed depends on the prompt and the index, whatever the model is told."""
    from lumina.prompt_files import PromptRow
    from lumina.randomness import generator
    from lumina.vbench.clip_files import clip_name
    from lumina.vbench.suite import clips_of

    wanted = [(p, index) for p in found for index in range(clips_of(p, samples, _filters(config)))]
    return [
        PromptRow(
            line,
            told.get(prompt.text, prompt.text),
            clip_name(prompt.text, index),
            int(generator(seed, "vbench-seed", prompt.text, index).integers(2**31)),
        )
        for line, (prompt, index) in enumerate(wanted, 1)
    ]


@dataclass(frozen=True)
class _Plan:
    """What is judged."""

    name: str
    folder: Path
    clips: Sequence[str]
    """Files that are there."""
    prompts: Sequence[VBenchPrompt]
    """Empty where no prompt file tells what clips show."""
    prompts_file: Path | None
    samples: int


def _judge_folder(
    videos: Path,
    prompts: Path | None,
    asked: tuple[str, ...],
    samples: int,
    config: JudgeConfig,
    out: Path,
    console: Console,
) -> int:
    from lumina.vbench.dimensions import DIMENSIONS
    from lumina.vbench.prompts import find_prompts, read_prompts
    from lumina.vbench.reading import clip_files
    from lumina.vbench.suite import WITHOUT_PROMPTS

    if not videos.is_dir():
        raise PipelineError(f"--videos {videos} is no directory: name one with clips called PROMPT-INDEX.mp4")
    names = [path.name for path in clip_files(videos)]
    typed = command_line(["lumina", *sys.argv[1:]])
    if prompts is None:
        if wrong := [name for name in asked if name not in WITHOUT_PROMPTS]:
            raise PipelineError(f"--dimensions {wrong[0]} looks for what the prompt file tells: give --prompts FILE")
        plan = _Plan(videos.name, videos, names, (), None, samples)
        return _judge(plan, asked or WITHOUT_PROMPTS, config, out, typed, console)
    file = find_prompts(prompts)
    plan = _Plan(videos.name, videos, names, read_prompts(file, asked), file, samples)
    return _judge(plan, asked or tuple(DIMENSIONS), config, out, typed, console)


def _judge(plan: _Plan, dimensions: Sequence[str], config: JudgeConfig, out: Path, typed: str, console: Console) -> int:
    """Score the clips, write the report and print it; returns the exit code."""
    import torch

    from jobs import cluster
    from jobs.ray_faults import explained
    from jobs.runtime import RuntimeConfig
    from jobs.vbench import find_clips, score_clips
    from lumina.vbench.page import Subject
    from lumina.vbench.report_files import PAGE_FILE, Statistics, make_report
    from lumina.vbench.suite import expected_clips, strata_of

    runtime = RuntimeConfig(use_gpu=torch.cuda.is_available())
    clips = find_clips(plan.folder, plan.clips, plan.prompts, dimensions, plan.samples)
    expected = expected_clips(plan.prompts, dimensions, plan.samples, _filters(config)) if plan.prompts else {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting Ray", total=None)
        try:
            with stoppable(typed, console) as stopped, explained("jobs.vbench:score_clips", runtime):
                cluster.ensure(runtime)
                scores = score_clips(
                    clips,
                    dimensions,
                    config,
                    plan.prompts_file,
                    out,
                    runtime,
                    lambda done, total, what: bar.update(task, description=what, completed=done, total=total),
                    expected,
                )
        finally:
            cluster.shutdown()
    if stopped.code:
        return stopped.code
    name = plan.prompts_file.name if plan.prompts_file else ""
    subject = Subject(plan.name, len(clips), plan.samples, name, plan.folder)
    report = make_report(subject, scores, strata_of(plan.prompts, plan.clips), Statistics())
    report.write(out, clean)
    console.print(report_view(report))
    console.print(f"{out / PAGE_FILE} shows it beside the paper's tables", soft_wrap=True)
    return 1 if report.failed else 0


def report_view(report: Report) -> RenderableType:
    """Figures of dimensions and totals, and what is missing."""
    from lumina.vbench.published import MULTI_SCALE, published
    from lumina.vbench.summary import percent

    paper = next(row for row in published() if row.model == MULTI_SCALE).corrected()
    printed = {"quality": paper.printed.quality, "semantic": paper.printed.semantic, "total": paper.printed.total}
    table = make_table("figure", ">percent", ">the paper's", ">prompts", ">clips", "~note")
    for one in report.summary.dimensions:
        value = percent(one.interval) if one.interval else "-"
        note = in_line(one.gap, "yellow") if one.gap else Text(one.note or "", "dim")
        numbers = (f"{one.prompts:,}", f"{one.clips:,}")
        name = one.metric if one.interval else one.name
        table.add_row(name, value, f"{paper.scores[one.name]:.2f}", *numbers, note)
    for total in report.summary.totals:
        value = percent(total.interval) if total.interval else "-"
        name = total.metric if total.interval else total.name
        table.add_row(name, value, f"{printed[total.name]:.2f}", "", "", Text(total.gap or "", "yellow"))
    gaps = any(one.gap for one in report.summary.dimensions)
    return (
        Group(table, Text("docs/vbench.md says which weights and which environment there are.", "dim"))
        if gaps
        else table
    )
