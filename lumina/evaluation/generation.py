"""Clips for evaluation: many prompts under one system prompt, each from its own addressed noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.checkpoints import load_model
from lumina.flow_matching.sampler import sample
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.randomness import generator
from lumina.sizes import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from lumina.system_prompts import compose


@dataclass(frozen=True)
class NoiseAddress:
    """Where the initial noise of one clip comes from: the same for every checkpoint and system prompt."""

    seed: int
    prompt_id: str
    sample: int


@dataclass(frozen=True)
class ClipGenerator:
    """The three networks that turn a prompt into frames."""

    model: MultiScaleNextDiT
    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder

    @classmethod
    def load(
        cls, checkpoint: Path, autoencoder: str, text_encoder: str, device: torch.device | str, dtype: torch.dtype
    ) -> ClipGenerator:
        """Load all three onto one device in one dtype; raises FileNotFoundError naming what is missing."""
        return cls(
            load_model(checkpoint, device, dtype),
            VideoAutoencoder.from_pretrained(autoencoder, device, dtype),
            TextEncoder.from_pretrained(text_encoder, device, dtype),
        )

    def tokens_cut(self, system_prompt: str, caption: str) -> int:
        """How many tokens of a prompt the text encoder does not take."""
        return self.text_encoder.tokens_cut(compose(system_prompt, caption))

    def generate(
        self,
        system_prompt: str,
        captions: Sequence[str],
        addresses: Sequence[NoiseAddress],
        sampler: SamplerConfig,
        *,
        num_frames: int,
        height: int,
        width: int,
    ) -> NDArray[np.uint8]:
        """Generate one clip of each caption.

        Args:
            system_prompt: put before every caption; alone it is the negative prompt.
            captions: N captions.
            addresses: N addresses of the initial noise.
            sampler: steps, scales, guidance, motion.
            num_frames: a multiple of 4, at least 8.
            height: in pixels.
            width: in pixels.

        Returns:
            uint8 RGB [N, num_frames, height, width, 3].
        """
        shape = (
            self.model.config.in_channels,
            num_frames // TEMPORAL_COMPRESSION,
            height // SPATIAL_COMPRESSION,
            width // SPATIAL_COMPRESSION,
        )
        noise = np.stack(
            [
                generator(a.seed, "eval-noise", a.prompt_id, a.sample).standard_normal(shape, dtype=np.float32)
                for a in addresses
            ]
        )
        text = self.text_encoder.encode([compose(system_prompt, caption) for caption in captions])
        [negative] = self.text_encoder.encode([compose(system_prompt, "")])
        latents = sample(self.model, torch.from_numpy(noise), text, [negative] * len(captions), sampler)
        frames: NDArray[np.uint8] = self.autoencoder.decode(latents).numpy()
        return frames
