"""Sounds of features: noise, the network's latents, their log-mels, and waves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumina.randomness import generator
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.networks.codec import AudioCodec
from lumina.video_to_audio.networks.dit import Media, VideoToAudioDiT
from lumina.video_to_audio.sampling import sample

_PEAK = 0.99
"""Of the loudest sample of a sound."""


@dataclass(frozen=True, eq=False)
class Sounds:
    """Of N clips of one length."""

    latents: Tensor
    """[N, C, T, R] float32, as the codec has them."""
    mels: Tensor
    """[N, 4 T, 64] float32 log-mels."""
    waves: Tensor
    """[N, 640 T] float32 at 16 kHz, -1 to 1."""


def sound_noise(model: VideoToAudioDiT, steps: int, seed: int, *address: int | str) -> Tensor:
    """Standard normal [C, `steps`, R] float32 of an address, such as a clip's id."""
    config = model.config
    shape = config.in_channels, steps, config.latent_rows
    return torch.from_numpy(generator(seed, "sound noise", *address).standard_normal(shape, dtype=np.float32))


def make_sounds(
    model: VideoToAudioDiT,
    codec: AudioCodec,
    noise: Tensor,
    media: Sequence[Media],
    sampler: SoundSamplerConfig | None = None,
) -> Sounds:
    """Sounds that fit N media, of noise [N, C, T, R]: items do not influence each other, but by rounding."""
    latents = sample(model, noise, media, sampler).float().cpu()
    mels = codec.decode(latents)
    return Sounds(latents, mels, within_full_scale(codec.vocode(mels)))


def within_full_scale(waves: Tensor) -> Tensor:
    """Waves [..., n], each that is louder than a file can hold made quieter as a whole: clipping would click."""
    return waves * (_PEAK / waves.abs().amax(-1, keepdim=True)).clamp(max=1)
