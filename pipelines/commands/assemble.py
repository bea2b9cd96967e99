"""`lumina assemble`: released or trained weights, and the networks around them, in one directory that generates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.written import check_new_folder
from pipelines.errors import PipelineError
from pipelines.terminal import make_console


def assemble(
    out: Annotated[Path, typer.Argument(help="Directory to write; it must not exist.")],
    transformer: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Released weights (a directory, a `consolidated` file, hf:Alpha-VLLM/Lumina-Video-f24R960), "
            "`convert`'s output, an export, or a training stage's output.",
        ),
    ],
    vae: Annotated[str, typer.Option(metavar="DIR", help="CogVideoX VAE: a directory, or hf:THUDM/CogVideoX-2b/vae.")],
    text_encoder: Annotated[
        str, typer.Option(metavar="DIR", help="Text encoder: a directory, or hf:google/gemma-2-2b.")
    ],
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Released sampling settings, e.g. f24F96R960-MultiScale, with their clips."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Instead: a generation.json with sizes and sampler.")
    ] = None,
    system_prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="An export's system_prompts.json, or source to text; the released one otherwise."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose system prompt is used when none is named.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Shape of a released transformer: 2B_GQA or 2B.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Shape of a released transformer, from JSON.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="The averaged weights of a released directory.")] = False,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Keep parts of the hub as ids with their commit, not as copies.")
    ] = False,
) -> None:
    """Put a transformer, a VAE, a text encoder and settings into one directory that `generate` takes.

    All parts are loaded and compared before anything is written.
    """
    check_new_folder("OUT", out)
    if (sampler is None) == (settings is None):
        raise PipelineError(
            "say what is generated when nothing else is asked for: --sampler NAME, such as f24F96R960-MultiScale, "
            "or --settings FILE.json, one of them"
        )
    from lumina.generation_config import read_settings, released_settings

    made = released_settings(sampler) if sampler is not None else read_settings(settings or Path())
    made = made.model_copy(update={"source": source or made.source})
    # Read when transformers is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from lumina import assemble as parts

    found = parts.find_transformer(transformer, preset, config, ema=ema)
    prompts = parts.RELEASED_PROMPTS if system_prompts is None else parts.prompts_of(system_prompts)
    console = make_console()
    with console.status("comparing the parts and writing them"):
        digest = parts.assemble(
            out,
            transformer=found,
            vae=vae,
            text_encoder=text_encoder,
            prompts=prompts,
            settings=made,
            by_reference=by_reference,
        )
    clip = f"{made.num_frames} frames, {made.width}x{made.height}, {made.fps:g} fps, {made.sampler.steps} steps"
    console.print(f"{out}: transformer {digest}; {clip}; system prompts: {', '.join(prompts)}", soft_wrap=True)
