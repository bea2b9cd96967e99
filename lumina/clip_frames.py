"""Frames of clips: text encoder, transformer and VAE at work in turn, each where the memory of the device has room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.flow_matching.sampler import Progress, sample
from lumina.flow_matching.schedules import SamplerConfig
from lumina.memory_plan import MemoryNeed, plan_memory
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.offload import Offload, OffloadSetting


def make_frames(
    transformer: MultiScaleNextDiT,
    vae: VideoAutoencoder,
    text_encoder: TextEncoder,
    prompts: Sequence[str],
    negative_prompt: str,
    noise: Tensor,
    sampler: SamplerConfig,
    *,
    device: torch.device,
    tiling: bool = False,
    offload: Offload = "none",
    motion: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Generate clips together.

    Args:
        transformer: predicts velocities.
        vae: decodes.
        text_encoder: reads the prompts.
        prompts: N prompts with their system prompts.
        negative_prompt: of all clips, likewise.
        noise: [N, C, F, h, w] standard normal.
        sampler: steps, scales, guidance, motion.
        device: where the networks work.
        tiling: whether frames are decoded in tiles, which changes them slightly.
        offload: which networks wait on the CPU, which changes nothing.
        motion: N motion scores instead of the sampler's.
        progress: called with (evaluations done, evaluations in all).

    Returns:
        uint8 RGB [N, T, H, W, 3].
    """
    waits = offload == "model"
    if offload != "text":
        for network in (transformer, vae.vae):
            network.to("cpu" if waits else device)
    with _at_work(text_encoder.model, device, waits=offload != "none"):
        text = text_encoder.encode(list(prompts))
        [negative] = text_encoder.encode([negative_prompt])
    with _at_work(transformer, device, waits=waits):
        latents = sample(transformer, noise, text, [negative] * len(text), sampler, motion=motion, progress=progress)
    with _at_work(vae.vae, device, waits=waits), _tiled(vae, tiling):
        frames: NDArray[np.uint8] = vae.decode(latents).numpy()
    return frames


def check_fit(config: NextDiTConfig, transformer: str, channels: int, vae: str, width: int, text_encoder: str) -> None:
    """Check that networks were trained together, as far as shapes tell. Raises ValueError naming those that were not.

    Args:
        config: of the transformer.
        transformer: where it lies, for messages; likewise the next two.
        channels: of the VAE's latents.
        vae: where it lies.
        width: of the text encoder's features.
        text_encoder: where it lies.
    """
    if channels != config.in_channels:
        raise ValueError(
            f"the VAE {vae} has {channels} latent channels, but the transformer {transformer} takes "
            f"{config.in_channels}: name the VAE that it was trained with"
        )
    if width != config.cap_feat_dim:
        raise ValueError(
            f"the text encoder {text_encoder} has features of width {width}, but the transformer {transformer} takes "
            f"{config.cap_feat_dim}: name the text encoder that it was trained with"
        )


def fit_memory(
    need: MemoryNeed,
    networks: Mapping[str, torch.nn.Module],
    device: torch.device,
    tiling: bool | None,
    offload: OffloadSetting,
) -> tuple[bool, Offload]:
    """Choose (tiling, offload) for what is free on a device now: see `plan_memory`.

    Args:
        need: of the clips; the bytes of weights are counted anew.
        networks: `transformer`, `vae` and `text_encoder`.
        device: where they work.
        tiling: None is what fits.
        offload: "auto" is what fits.
    """
    sizes = {name: sum(value.nbytes for value in one.parameters()) for name, one in networks.items()}
    free = free_bytes(device)
    if free is not None:
        # Our own weights are in the plan.
        at = {name: next(one.parameters()).device.type for name, one in networks.items()}
        free += sum(size for name, size in sizes.items() if at[name] == device.type)
    return plan_memory(replace(need, **sizes), free, tiling, offload)


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU that are not in use, those that torch holds in reserve included; None for other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@contextmanager
def _at_work(network: torch.nn.Module, device: torch.device, *, waits: bool) -> Iterator[None]:
    """A network is on its device, and if it `waits` elsewhere, leaves it afterwards."""
    network.to(device)
    try:
        yield
    finally:
        if waits:
            network.to("cpu")


@contextmanager
def _tiled(vae: VideoAutoencoder, tiling: bool) -> Iterator[None]:
    """Frames are decoded in tiles, or as they were before."""
    before = vae.vae.use_tiling
    if tiling:
        vae.enable_tiling()
    try:
        yield
    finally:
        if tiling and not before:
            vae.disable_tiling()
