"""What `lumina generate` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from lumina.models.config import AttentionKernel
from lumina.precision import Precision, precision_on
from pipelines.terminal import make_console


def clip_files(out: Path, count: int) -> list[Path]:
    """Where the clips of `count` prompts are written."""
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]


def generate_clips(
    checkpoint: str,
    prompts: list[str],
    settings: dict[str, Any],
    preset: str | None,
    steps: int | None,
    precision: Precision,
    attention: AttentionKernel,
    tiling: bool,
    files: Sequence[Path],
    adapter: str | None,
    adapter_scale: float,
) -> None:
    """Generate a clip of every prompt and write each to its file, with a progress bar."""
    console = make_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)
        # Read when transformers is imported: its bars would tear ours.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import torch

        from lumina.flow_matching.schedules import sampler_config
        from lumina.generate import TextToVideo
        from lumina.models.attention_kernels import use_kernel
        from lumina.video import write_h264

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, precision_on(device, precision))
        model = TextToVideo.from_pretrained(checkpoint, device, dtype, adapter=adapter, adapter_scale=adapter_scale)
        use_kernel(attention, model.transformer.config, device, dtype)
        if tiling:
            model.vae.enable_tiling()
        sampler = sampler_config(preset or model.defaults.sampler)
        if steps is not None:
            sampler = sampler.model_copy(update={"steps": steps})
        made = model(
            prompts,
            **settings,
            sampler=sampler,
            progress=lambda done, total: bar.update(task, description="generating", completed=done, total=total),
        )
    for path, frames in zip(files, made.frames, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_h264(path, frames, made.fps)
        count, height, width = frames.shape[:3]
        console.print(f"{path}: {count} frames, {width}x{height}, {made.fps:g} fps", soft_wrap=True)
