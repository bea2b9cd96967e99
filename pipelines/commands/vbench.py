"""`lumina vbench`: a checkpoint, or a folder of anybody's clips, judged by VBench."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lumina.hub import PREFIX
from lumina.precision import Precision
from pipelines.commands.generate_many import (
    Options,
    check_folder,
    check_seen,
    generate_rows,
    shown_progress,
    stoppable,
    submit_command,
    terminable,
)
from pipelines.commands.options import (
    FramesOption,
    JobAddressOption,
    PresetOption,
    PromptSourceOption,
    StepsOption,
    TypedOption,
    check_checkpoint,
    pairs,
    width_and_height,
)
from pipelines.commands.vbench_table import report_view
from pipelines.errors import PipelineError, did_you_mean
from pipelines.terminal import clean, command_line, make_console

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig
    from lumina.prompt_files import PromptRow
    from lumina.vbench.prompts import VBenchPrompt
    from lumina.vbench.suite_config import JudgeConfig

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
    source: PromptSourceOption = None,
    seed: Annotated[int, typer.Option(help="A clip's noise is drawn for it, its prompt and its index.")] = 0,
    preset: PresetOption = None,
    steps: StepsOption = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels; optical flow needs 128 a side.")] = None,
    frames: FramesOption = None,
    fps: Annotated[float | None, typer.Option(min=1, help="Frame rate of the files.")] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Type in which the checkpoint computes; auto is bfloat16 on a GPU.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers at most.", show_default="every GPU, or the CPUs that fit")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Do it on a cluster: its Ray dashboard, such as http://head:8265."),
    ] = None,
    ray_address: JobAddressOption = None,
    typed: TypedOption = "",
) -> int:
    """Judge a checkpoint, or a folder of clips, by VBench's dimensions, with intervals.

    Clips and scores are kept in --out: killed at any time, the same command goes on, and nothing is scored twice. A
    dimension that cannot be scored is named with what it needs; a total needs all sixteen. Exit code: 0, 1 if a clip
    or the official code failed, 130 after Ctrl-C.
    """
    if (checkpoint is None) == (videos is None):
        raise PipelineError("give either a CHECKPOINT to make clips with, or --videos DIR with clips")
    check_folder(out)
    asked = _dimensions(dimensions)
    config = _judges(weights or [], python, official or [], address is not None)
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
        tiling=None,
        offload="auto",
        workers=workers,
        ray_address=ray_address,
        typed=typed or command_line(["lumina", *sys.argv[1:]]),
    )
    address = address.rstrip("/") if address else None
    work = _Work(prompts, asked, samples, config, out, options)
    if videos is not None:
        if made := [word for word in (*options.making(), *(["--augmented"] if augmented else [])) if word[:2] == "--"]:
            raise PipelineError(f"{made[0]} is for clips that are made, and those of --videos are there: leave it out")
        if address is None and not videos.is_dir():
            raise PipelineError(f"--videos {videos} is no directory: name one with clips called PROMPT-INDEX.mp4")
        return _judge_folder(videos, work) if address is None else _submit(work, None, videos, None, address)
    assert checkpoint is not None  # noqa: S101 - one of both is given
    if address is None:
        check_checkpoint("CHECKPOINT", checkpoint)
        return _judge_checkpoint(checkpoint, work, augmented)
    return _submit(work, checkpoint, None, augmented, address)


@dataclass(frozen=True)
class _Work:
    """What is asked for, beside the clips."""

    prompts: Path | None
    dimensions: tuple[str, ...]
    """Empty for all."""
    samples: int
    config: JudgeConfig
    out: Path
    options: Options


def _dimensions(text: str | None) -> tuple[str, ...]:
    from lumina.vbench.dimensions import DIMENSIONS

    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if name not in DIMENSIONS:
            raise PipelineError(f"--dimensions {name}: unknown; {_meant(name, DIMENSIONS)}")
    return names


def _meant(name: str, known: Collection[str]) -> str:
    return did_you_mean(name, known, f"there are {', '.join(known)}")


def _judges(weights: Sequence[str], python: Path | None, official: Sequence[str], is_elsewhere: bool) -> JudgeConfig:
    from lumina.vbench.dimensions import DIMENSIONS
    from lumina.vbench.suite_config import JudgeConfig, VBenchWeights

    places = pairs("--weights", weights, "NAME=PATH")
    for name, place in places.items():
        if name not in VBenchWeights.model_fields:
            raise PipelineError(f"--weights {name}: unknown; {_meant(name, VBenchWeights.model_fields)}")
        if not is_elsewhere and not Path(place).exists() and not place.startswith(PREFIX):
            raise PipelineError(f"--weights {name}={place}: there is no {place}")
    for name in official:
        if name != "all" and name not in DIMENSIONS:
            raise PipelineError(f"--official {name}: unknown; {_meant(name, [*DIMENSIONS, 'all'])}")
    if official and python is None:
        raise PipelineError("--official needs --python, the interpreter of an environment with the official vbench")
    return JudgeConfig(weights=VBenchWeights(**places), python=python, official=tuple(official))


def _submit(work: _Work, checkpoint: str | None, videos: Path | None, augmented: Path | None, address: str) -> int:
    """Do it on a cluster, as a job to which the prompt files are sent along."""
    from lumina.vbench.augmented import read_augmented
    from lumina.vbench.prompts import find_prompts, read_prompts

    config, options = work.config, work.options
    file = find_prompts(work.prompts) if work.prompts is not None or checkpoint is not None else None
    prompts = read_prompts(file, work.dimensions) if file else ()
    if augmented is not None:
        read_augmented(augmented, prompts)
    files = {name: path for name, path in (("prompts.json", file), (_augmented(augmented), augmented)) if path}
    weights = {name: place for name, place in config.weights.model_dump().items() if place is not None}
    words = ["vbench", *([checkpoint] if checkpoint else []), *(["--videos", str(videos)] if videos else [])]
    words += ["--out", str(work.out), "--samples", str(work.samples)]
    words += ["--prompts", "prompts.json"] if file else []
    words += ["--augmented", _augmented(augmented)] if augmented else []
    words += ["--dimensions", ",".join(work.dimensions)] if work.dimensions else []
    words += [word for name, place in weights.items() for word in ("--weights", f"{name}={place}")]
    words += ["--python", str(config.python)] if config.python else []
    words += [word for name in config.official for word in ("--official", name)]
    words += options.words()
    named = {"CHECKPOINT": checkpoint or "", "--videos": str(videos or ""), "--out": str(work.out)}
    named |= {"--python": str(config.python or "")} | {f"--weights {name}": place for name, place in weights.items()}
    return submit_command(words, files, named, work.out, address, options.typed, f"VBench for {work.out}")


def _augmented(path: Path | None) -> str:
    return f"augmented{path.suffix.lower()}" if path else ""


def _rows(
    found: Sequence[VBenchPrompt], samples: int, config: JudgeConfig, told: Mapping[str, str], seed: int
) -> list[PromptRow]:
    """A row for each clip; its seed depends on the prompt and the index, whatever the model is told."""
    from lumina.prompt_files import PromptRow
    from lumina.vbench.clip_files import clip_name
    from lumina.vbench.suite import clip_seed, clips_of
    from lumina.vbench.suite_config import filters_clips

    wanted = [(p, index) for p in found for index in range(clips_of(p, samples, filters_clips(config)))]
    return [
        PromptRow(
            line,
            told.get(prompt.text, prompt.text),
            clip_name(prompt.text, index),
            clip_seed(seed, prompt.text, index),
            notes=(("vbench_prompt", prompt.text), ("vbench_index", index)),
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
    dimensions: tuple[str, ...]
    filters: bool
    """Whether the static filter chooses among more clips of temporal flickering."""


def _judge_checkpoint(checkpoint: str, work: _Work, augmented: Path | None) -> int:
    """Make the clips of a checkpoint, and judge them."""
    from lumina.vbench.augmented import read_augmented
    from lumina.vbench.dimensions import DIMENSIONS
    from lumina.vbench.prompts import find_prompts, read_prompts
    from lumina.vbench.suite_config import filters_clips

    console = make_console()
    file = find_prompts(work.prompts)
    found = read_prompts(file, work.dimensions)
    told = read_augmented(augmented, found) if augmented is not None else {}
    rows = _rows(found, work.samples, work.config, told, work.options.seed)
    folder = work.out / CLIPS
    code = generate_rows(checkpoint, rows, str(file), folder, work.options, work.options.typed, console)
    if code not in (0, 1):
        return code
    present = [row.file for row in rows if (folder / row.file).is_file()]
    filters = filters_clips(work.config)
    plan = _Plan(checkpoint, folder, present, found, file, work.dimensions or tuple(DIMENSIONS), filters)
    return max(code, _judge(plan, work, console))


def _judge_folder(videos: Path, work: _Work) -> int:
    """Judge clips that are there."""
    from lumina.vbench.clip_files import index_of
    from lumina.vbench.dimensions import DIMENSIONS
    from lumina.vbench.prompts import find_prompts, read_prompts
    from lumina.vbench.reading import clip_files
    from lumina.vbench.suite import WITHOUT_PROMPTS
    from lumina.vbench.suite_config import filters_clips

    asked, name = work.dimensions, videos.resolve().name
    names = [path.name for path in clip_files(videos)]
    if work.prompts is None:
        if wrong := [one for one in asked if one not in WITHOUT_PROMPTS]:
            raise PipelineError(f"--dimensions {wrong[0]} looks for what the prompt file tells: give --prompts FILE")
        return _judge(_Plan(name, videos, names, (), None, asked or WITHOUT_PROMPTS, False), work, make_console())
    file = find_prompts(work.prompts)
    # Clips that somebody filtered already are as many as those of other dimensions.
    more = any((index_of(one) or 0) >= work.samples for one in names)
    filters = more and filters_clips(work.config)
    plan = _Plan(name, videos, names, read_prompts(file, asked), file, asked or tuple(DIMENSIONS), filters)
    return _judge(plan, work, make_console())


def _judge(plan: _Plan, work: _Work, console: Console) -> int:
    """Score the clips, write the report and print it; returns the exit code."""
    from jobs import cluster
    from jobs.ray_faults import explained
    from jobs.vbench import find_clips, score_clips
    from lumina.vbench.page import Subject
    from lumina.vbench.reading import differing
    from lumina.vbench.report_files import PAGE_FILE, Statistics, make_report
    from lumina.vbench.suite import expected_clips, strata_of

    prompts, samples, out = plan.prompts, work.samples, work.out
    with shown_progress(console, "looking at the clips") as shown:
        try:
            with stoppable(work.options.typed, console) as stopped:
                clips = find_clips(plan.folder, plan.clips, prompts, plan.dimensions, samples, plan.filters)
                expected = expected_clips(prompts, plan.dimensions, samples, plan.filters) if prompts else None
                shown(0, None, "starting Ray")
                runtime = _runtime(work.options)
                # Ray has put its own handler there.
                with terminable(), explained("jobs.vbench:score_clips", runtime):
                    if runtime.ray_address is not None:
                        places = {f"--weights {n}": p for n, p in work.config.weights.model_dump().items() if p}
                        check_seen({name: Path(place) for name, place in places.items() if Path(place).exists()})
                        check_seen({"--out" if plan.prompts_file else "--videos": clips[0].path})
                    scores = score_clips(
                        clips,
                        plan.dimensions,
                        work.config,
                        plan.prompts_file,
                        out,
                        runtime,
                        shown,
                        expected,
                        work.options.workers,
                    )
        finally:
            cluster.shutdown()
    if stopped.code:
        return stopped.code
    file = plan.prompts_file.name if plan.prompts_file else ""
    note = differing({clip.name: clip.shape for clip in clips})
    subject = Subject(plan.name, len(clips), samples, file, plan.folder, note)
    report = make_report(subject, scores, strata_of(prompts, plan.clips), Statistics())
    report.write(out, clean)
    console.print(report_view(report))
    console.print(f"{out / PAGE_FILE} shows it beside the paper's tables", soft_wrap=True)
    return 1 if report.failed else 0


def _runtime(options: Options) -> RuntimeConfig:
    """Where the clips are judged; this process is part of that cluster then."""
    import torch

    from jobs import capacity, cluster
    from jobs.runtime import RuntimeConfig

    runtime = RuntimeConfig(ray_address=options.ray_address, use_gpu=torch.cuda.is_available())
    cluster.ensure(runtime)
    return runtime if options.ray_address is None else runtime.model_copy(update={"use_gpu": capacity.has_gpus()})
