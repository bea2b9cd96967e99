"""`lumina convert` and `lumina cost`: the layout of weights, and what a config costs.

Heavy imports stand inside the commands, as in `pipelines.cli`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Json, Overrides, show, width_and_height
from pipelines.commands.written import check_new_folder
from pipelines.errors import PipelineError
from pipelines.terminal import json_text, make_console


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
    and what encoding and evaluation take. Of a video-to-audio config it counts the window of `encode_sound`, and
    with --cluster its training alone: time of a step, GPU-hours and memory of a GPU.
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
    from pipelines.config import PipelineConfig, load_config
    from pipelines.reports import cluster as cluster_report
    from pipelines.reports import cost as cost_report
    from pipelines.reports import sound_cost
    from pipelines.sound_config import SoundPipelineConfig

    links = Links(1e9 * (network or 50), 1e9 * (storage or 2))
    width, height = width_and_height(size) if size else (None, None)
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
        if isinstance(settings, SoundPipelineConfig):
            if size or frames:
                raise PipelineError(f"{config} makes sounds, which have no --size and no --frames")
            sound = sound_cost.of_sound_pipeline(settings, gpus, utilisation or 0.3, links)
            show(as_json, lambda: asdict(sound), lambda: sound_cost.sound_cost_view(sound))
            return
        if not isinstance(settings, PipelineConfig):
            raise AssertionError(f"no cost is known for a {type(settings).__name__}")
        export = settings.export
        clip = cost_report.Clip(width or export.width, height or export.height, frames or export.num_frames)
        made = cost_report.of_pipeline(settings, clip, text_tokens)
        planned = None
        if gpus:
            planned = cluster_report.on_cluster(settings, gpus, utilisation or 0.3, text_tokens, links)
    if as_json:
        typer.echo(json_text(asdict(made) | ({"cluster": planned} if planned else {})))
        return
    console = make_console()
    console.print(cost_report.cost_view(made, sampling=planned is None))
    if planned:
        console.print(cluster_report.cluster_view(planned), crop=False)
