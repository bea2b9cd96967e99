"""`lumina generate`: clips from texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from lumina.precision import precision_on
from pipelines.commands.generate_many import Options, check_folder, generate_many, submit_many
from pipelines.commands.options import (
    AdapterOption,
    AdapterScaleOption,
    AttentionOption,
    DtypeOption,
    FramesOption,
    JobAddressOption,
    OffloadOption,
    PresetOption,
    PromptSourceOption,
    SoundOption,
    StepsOption,
    TilingOption,
    TypedOption,
    check_adapter,
    check_checkpoint,
    width_and_height,
)
from pipelines.commands.written import check_file
from pipelines.errors import PipelineError
from pipelines.terminal import make_console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from jobs.clip_sound import ClipSound


def generate(
    checkpoint: Annotated[str, typer.Option(metavar="DIR", help="Exported checkpoint directory, or hf:owner/name.")],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What the clip shows; may be repeated.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead: a clip for each line of a .txt, or each row of a .csv or .jsonl with the columns prompt, "
            "seed, size, frames, source, motion, negative_prompt, output; what a row leaves out is as said here.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    adapter_scale: AdapterScaleOption = None,
    source: PromptSourceOption = None,
    negative_prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to stay away from.")] = "",
    seed: Annotated[
        int,
        typer.Option(
            help="The same seed gives the same frames. A row of --prompts without one gets a seed drawn for this "
            "number, its prompt, and how many rows above have the same prompt: wherever it stands."
        ),
    ] = 0,
    motion: Annotated[float | None, typer.Option(min=0, help="Motion score to ask for.")] = None,
    preset: PresetOption = None,
    steps: StepsOption = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, e.g. 672x384.")] = None,
    frames: FramesOption = None,
    fps: Annotated[float | None, typer.Option(min=1, help="Frame rate of the file.")] = None,
    dtype: DtypeOption = "auto",
    attention: AttentionOption = "auto",
    tiling: TilingOption = None,
    offload: OffloadOption = "auto",
    sound: SoundOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="H.264 file to write, several prompts give PATH-1.mp4, ...; with --prompts the folder for the clips "
            "and their manifest.jsonl.",
            show_default="out.mp4, or clips",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --prompts: workers at most.", show_default="every GPU, or the CPUs that fit into memory"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --prompts: a cluster's Ray dashboard, such as http://head:8265."),
    ] = None,
    ray_address: JobAddressOption = None,
    typed: TypedOption = "",
) -> int:
    """Generate clips from texts.

    With --prompts they are made on every GPU. Killed at any time, the same command goes on: a clip that is there is
    made again only if its row has changed. Exit code: 0, 1 if a clip failed (the others are made), 130 after Ctrl-C.
    """
    if (prompt is None) == (prompts is None):
        raise PipelineError("give either --prompt TEXT, which may be repeated, or --prompts FILE")
    check_adapter(adapter, adapter_scale)
    if prompts is not None:
        folder = out or Path("clips")
        check_folder(folder)
        if address is None:
            check_checkpoint("--checkpoint", checkpoint)
            if sound is not None:
                check_checkpoint("--sound", sound)
        options = Options(
            adapter=adapter,
            adapter_scale=1.0 if adapter_scale is None else adapter_scale,
            source=source,
            negative_prompt=negative_prompt,
            seed=seed,
            motion=motion,
            preset=preset,
            steps=steps,
            size=width_and_height(size) if size else None,
            frames=frames,
            fps=fps,
            dtype=dtype,
            attention=attention,
            tiling=tiling,
            offload=offload,
            workers=workers,
            ray_address=ray_address,
            typed=typed,
            sound=sound,
        )
        if address is not None:
            return submit_many(checkpoint, prompts, folder, options, address)
        return generate_many(checkpoint, prompts, folder, options)
    for name, value in (("--workers", workers), ("--address", address)):
        if value is not None:
            raise PipelineError(f"{name} {value}: it is for many clips, and --prompts names no file of them")
    prompt = prompt or []
    out = out or Path("out.mp4")
    if out.suffix.lower() != ".mp4":
        raise PipelineError(f"--out {out}: expected a file name that ends in .mp4")
    count = len(prompt)
    files = [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]
    for file in [*files, *(file.with_suffix(".wav") for file in files if sound is not None)]:
        check_file("--out", file, makes_folder=True)
    check_checkpoint("--checkpoint", checkpoint)
    if sound is not None:
        check_checkpoint("--sound", sound)
    scale = 1.0 if adapter_scale is None else adapter_scale
    width, height = width_and_height(size) if size else (None, None)
    console = make_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)
        # Read when transformers is imported: its bars would tear ours.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import torch

        from jobs.clip_sound import ClipSound
        from lumina.flow_matching.schedules import sampler_config
        from lumina.generate import TextToVideo
        from lumina.generation_config import read_settings
        from lumina.models.attention_kernels import use_kernel
        from lumina.parts import GENERATION_FILE, find_parts

        device = "cuda" if torch.cuda.is_available() else "cpu"
        scorer = None if sound is None else ClipSound.find(sound, device == "cuda")
        if scorer is not None:
            defaults = read_settings(find_parts(checkpoint)[GENERATION_FILE])
            scorer.check(frames or defaults.num_frames, fps or defaults.fps)
        precision = getattr(torch, precision_on(device, dtype))
        loaded = TextToVideo.from_pretrained(
            checkpoint, device, precision, adapter=adapter, adapter_scale=scale, tiling=tiling, offload=offload
        )
        use_kernel(attention, loaded.transformer.config, device, precision)
        sampler = sampler_config(preset or loaded.defaults.sampler)
        sampler = sampler if steps is None else sampler.model_copy(update={"steps": steps})
        console.print(str(loaded.memory_plan(frames, width, height, sampler, count)), soft_wrap=True)
        made = loaded(
            prompt,
            source=source,
            seed=seed,
            motion=motion,
            negative_prompt=negative_prompt,
            num_frames=frames,
            width=width,
            height=height,
            fps=fps,
            sampler=sampler,
            progress=lambda done, total: bar.update(task, description="generating", completed=done, total=total),
        )
        del loaded
    for path, text, clip in zip(files, prompt, made.frames, strict=True):
        heard = _write(path, clip, made.fps, text, seed, scorer)
        length, high, wide = clip.shape[:3]
        console.print(f"{path}: {length} frames, {wide}x{high}, {made.fps:g} fps{heard}", soft_wrap=True)
    return 0


def _write(path: Path, clip: NDArray[np.uint8], fps: float, prompt: str, seed: int, scorer: ClipSound | None) -> str:
    """Write a clip, with a sound if there is what gives one; returns what is said of that."""
    from lumina.audio_tracks import write_wav
    from lumina.files import replacing
    from lumina.video import write_h264

    if scorer is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_h264(path, clip, fps)
        return ""
    track, beside = scorer.track(clip, fps, prompt, seed), path.with_suffix(".wav")
    with replacing(path) as partial, replacing(beside) as alone:
        write_h264(partial, clip, fps, sound=track)
        write_wav(alone, track)
    return f"; its sound alone is {beside}"
