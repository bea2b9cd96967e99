"""The commands that need no run: look at a file, generate, convert weights, count costs.

Heavy imports stand inside the commands, as in `pipelines.cli`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lumina.hub import PREFIX, hub_model, no_folder
from lumina.models.config import AttentionKernel
from lumina.precision import Precision
from pipelines.commands.options import Json, Overrides
from pipelines.commands.written import check_file, check_new_folder
from pipelines.errors import PipelineError
from pipelines.terminal import json_text, make_console


def probe(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A video or an image: a path, or a URI as in a manifest.")
    ],
) -> None:
    """Show what a run would find in one file, or why it would quarantine it."""
    from pipelines.commands.probe_file import probe_view

    make_console().print(probe_view(file))


def generate(
    checkpoint: Annotated[str, typer.Option(metavar="DIR", help="Exported checkpoint directory, or hf:owner/name.")],
    prompt: Annotated[list[str], typer.Option(metavar="TEXT", help="What the clip shows; may be repeated.")],
    adapter: Annotated[
        str | None, typer.Option(metavar="DIR", help="LoRA adapter to add, as peft saves it, or hf:owner/name.")
    ] = None,
    adapter_scale: Annotated[
        float | None, typer.Option(help="How much of the adapter is added.", show_default="1")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose system prompt; the exported default otherwise.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to stay away from.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same frames.")] = 0,
    motion: Annotated[float | None, typer.Option(min=0, help="Motion score to ask for.")] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Released sampling settings, e.g. f16F64R512-MultiScale.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, e.g. 672x384.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="1, or a multiple of 4 from 8 on.")] = None,
    fps: Annotated[float | None, typer.Option(min=1, help="Frame rate of the file.")] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Type in which the networks compute; auto is bfloat16 on a GPU.")
    ] = "auto",
    attention: Annotated[AttentionKernel, typer.Option(help="Kernel of attention on a GPU.")] = "auto",
    tiling: Annotated[bool, typer.Option("--tiling", help="Decode in tiles: less memory for large frames.")] = False,
    out: Annotated[
        Path, typer.Option(metavar="FILE.mp4", help="H.264 file to write; several prompts give FILE-1.mp4, ...")
    ] = Path("out.mp4"),
) -> None:
    """Generate clips from texts."""
    from pipelines.commands.generate import clip_files, generate_clips

    if out.suffix.lower() != ".mp4":
        raise PipelineError(f"--out {out}: expected a file name that ends in .mp4")
    files = clip_files(out, len(prompt))
    for file in files:
        check_file("--out", file, makes_folder=True)
    model = hub_model(checkpoint)
    named = model is not None and (checkpoint.startswith(PREFIX) or model.snapshot is not None)
    if not Path(checkpoint).is_dir() and not named:
        raise PipelineError(f"--checkpoint {no_folder(checkpoint)}; `lumina run` prints where it exported one")
    if adapter_scale is not None and adapter is None:
        raise PipelineError(f"--adapter-scale {adapter_scale:g}: it is of an adapter, and --adapter names none")
    width, height = _size(size) if size else (None, None)
    settings = {
        "source": source,
        "seed": seed,
        "motion": motion,
        "negative_prompt": negative_prompt,
        "num_frames": frames,
        "width": width,
        "height": height,
        "fps": fps,
    }
    generate_clips(
        checkpoint,
        prompt,
        settings,
        preset,
        steps,
        dtype,
        attention,
        tiling,
        files,
        adapter,
        1.0 if adapter_scale is None else adapter_scale,
    )


def convert(
    source: Annotated[Path, typer.Argument(help="Released directory or `consolidated` file; with --back one of ours.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must not exist.")],
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Shape of the model: 2B_GQA or 2B.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Shape of the model, from JSON.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="The averaged weights.")] = False,
    back: Annotated[bool, typer.Option("--back", help="From our layout to the released one.")] = False,
) -> None:
    """Convert transformer weights between the released layout and ours; numbers and types stay as they are."""
    check_new_folder("OUT", out)
    from lumina import checkpoints, released

    if back:
        shape, weights = checkpoints.load_config(source), checkpoints.load_weights(source)
        released.write_released(shape, weights, out, ema=ema)
        digest = checkpoints.digest({"weights": weights})
    else:
        shape = released.find_config(source, preset, config)
        weights = released.read_released(source, shape, ema=ema)
        digest = checkpoints.save_weights(shape, weights, out)
    count = sum(value.numel() for value in weights.values())
    make_console().print(f"{out}: {count:,} parameters in {len(weights)} tensors, {digest}", soft_wrap=True)


def cost(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Path of a YAML file, `demo`, `folder`, or a model: 2B_GQA, 2B.")
    ],
    override: Overrides = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels of the clip that is counted.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Its frames.")] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of its text, system prompt included.")] = 256,
    cluster: Annotated[
        str | None, typer.Option(metavar="NxGPU", help="Plan the training on these GPUs, e.g. 32xH100.")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="Share of their peak that training reaches.", show_default="0.3 with --cluster")
    ] = None,
    network: Annotated[
        float | None,
        typer.Option(min=0.001, help="GB/s from each GPU to those of other nodes.", show_default="50 with --cluster"),
    ] = None,
    storage: Annotated[
        float | None,
        typer.Option(min=0.001, help="GB/s that all GPUs read and write together.", show_default="2 with --cluster"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show tokens, operations and bytes per scale, sampling schedule and training task.

    With --cluster it plans the training: GPU-hours, what a step waits for, checkpoints and memory per GPU, by stage;
    and what encoding and evaluation take.
    """
    from lumina.hardware import parse_cluster
    from lumina.models.config import RELEASED_MODELS
    from lumina.step_time import Links

    gpus = parse_cluster(cluster) if cluster else None
    for option, value in (("--network", network), ("--storage", storage)):
        if value is not None and gpus is None:
            raise PipelineError(f"{option} {value:g}: it is about the GPUs of --cluster, which names none")
    if utilisation is not None and (gpus is None or not 0 < utilisation <= 1):
        raise PipelineError(f"--utilisation {utilisation:g}: expected a share of the peak of --cluster, such as 0.3")
    from pipelines.config import load_config
    from pipelines.reports import cluster as cluster_report
    from pipelines.reports import cost as cost_report

    width, height = _size(size) if size else (None, None)
    if config in RELEASED_MODELS:
        if override:
            raise PipelineError(f"{config} is a released model, which has no settings to override")
        if gpus:
            raise PipelineError(f"{config} is a model, which names no training: try lumina cost paper --cluster ...")
        clip = cost_report.Clip(width or 672, height or 384, frames or 64)
        made = cost_report.of_released(RELEASED_MODELS[config], clip, text_tokens)
        planned = None
    else:
        workers = [f"runtime.train_workers={gpus.count}"] if gpus else []
        settings = load_config(config, [*(override or []), *workers], needs_clips=False)
        export = settings.export
        clip = cost_report.Clip(width or export.width, height or export.height, frames or export.num_frames)
        made = cost_report.of_pipeline(settings, clip, text_tokens)
        planned = None
        if gpus:
            links = Links(1e9 * (network or 50), 1e9 * (storage or 2))
            planned = cluster_report.on_cluster(settings, gpus, utilisation or 0.3, text_tokens, links)
    if as_json:
        content = cost_report.as_dict(made) | ({"cluster": cluster_report.as_dict(planned)} if planned else {})
        typer.echo(json_text(content))
        return
    console = make_console()
    console.print(cost_report.cost_view(made, sampling=planned is None))
    if planned:
        console.print(cluster_report.cluster_view(planned), crop=False)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise PipelineError(f"size {text!r}: expected WIDTHxHEIGHT in pixels, such as 672x384")
    return int(width), int(height)
