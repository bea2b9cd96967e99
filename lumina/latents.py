"""Latents of clips that are to be generated: their shape, and the noise that they start from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.config import NextDiTConfig
from lumina.randomness import generator
from lumina.sizes import SPATIAL_COMPRESSION, check_size, generated_latents


def latent_shape(
    model: NextDiTConfig, num_frames: int, width: int, height: int, sampler: SamplerConfig
) -> tuple[int, ...]:
    """[C, F, h, w] of a clip; raises ValueError, naming what fits, if a scale of the sampler does not divide it."""
    frames = generated_latents(num_frames)
    patches = [patch for _, patch in sampler.patches_of(frames)]
    for patch in patches:
        model.check_patch(patch)
    check_size(width, height, SPATIAL_COMPRESSION * max(patch[1] for patch in patches))
    whole = max(patch[0] for patch in patches)
    if frames > 1 and frames % whole:
        step = whole * num_frames // frames
        near = num_frames // step * step
        fits = " or ".join(str(count) for count in (near, near + step) if count >= step)
        raise ValueError(f"num_frames must be a multiple of {step} for this sampler, got {num_frames}: take {fits}")
    return (model.in_channels, frames, height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION)


def initial_noise(shape: Sequence[int], seed: int, *address: int | str) -> Tensor:
    """Standard normal noise (float32) of one clip: the same for the same seed and address, whatever its batch."""
    rng = generator(seed, "noise/sample", *address)
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
