"""Clip generator: many prompts under one system prompt, each from its own addressed noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.adapters import load_adapted
from lumina.checkpoints import load_model
from lumina.clip_frames import check_fit, make_frames
from lumina.evaluation.noise import NoiseAddress
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.offload import Offload
from lumina.sizes import SPATIAL_COMPRESSION, generated_latents
from lumina.system_prompts import compose


@dataclass(frozen=True)
class ClipGenerator:
    """The three networks that turn a prompt into frames."""

    model: MultiScaleNextDiT
    autoencoder: VideoAutoencoder
    text_encoder: TextEncoder

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        autoencoder: str,
        text_encoder: str,
        device: torch.device | str,
        dtype: torch.dtype,
        adapter: str | None = None,
        adapter_scale: float = 1.0,
    ) -> ClipGenerator:
        """Load all three onto one device in one dtype, the transformer with a LoRA adapter added if one is named.

        Raises FileNotFoundError naming what is missing, ValueError if the adapter is of another network, or the
        networks do not fit each other.
        """
        model = (
            load_model(checkpoint, device, dtype)
            if adapter is None
            else load_adapted(checkpoint, adapter, adapter_scale, device, dtype)
        )
        vae = VideoAutoencoder.from_pretrained(autoencoder, device, dtype)
        encoder = TextEncoder.from_pretrained(text_encoder, device, dtype)
        check_fit(model.config, str(checkpoint), vae.latent_channels, autoencoder, encoder.feature_dim, text_encoder)
        return cls(model, vae, encoder)

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """By the names of parts of a text-to-video directory."""
        return {"transformer": self.model, "vae": self.autoencoder.vae, "text_encoder": self.text_encoder.model}

    def cut(self, system_prompt: str, caption: str) -> dict[str, Any]:
        """What the text encoder does not take of a prompt: `tokens_cut`, a number, and `words_cut`, the text."""
        prompt = compose(system_prompt, caption)
        tokens = self.text_encoder.tokens_cut(prompt)
        return {"tokens_cut": tokens, "words_cut": self.text_encoder.text_cut(prompt) if tokens else ""}

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
        negative_prompt: str = "",
        motion: Sequence[float | None] = (),
        device: torch.device | None = None,
        tiling: bool = False,
        offload: Offload = "none",
    ) -> NDArray[np.uint8]:
        """Generate one clip of each caption.

        Args:
            system_prompt: put before every caption, and before the negative prompt.
            captions: N captions.
            addresses: N addresses of the initial noise.
            sampler: steps, scales, guidance, motion.
            num_frames: 1, or a multiple of 4 from 8 on.
            height: in pixels.
            width: in pixels.
            negative_prompt: what to stay away from; empty is the system prompt alone.
            motion: N motion scores instead of the sampler's, all or none of them None; () is none.
            device: where the networks work; None is where the transformer is.
            tiling: whether frames are decoded in tiles.
            offload: which networks wait on the CPU.

        Returns:
            uint8 RGB [N, num_frames, height, width, 3].
        """
        shape = (
            self.model.config.in_channels,
            generated_latents(num_frames),
            height // SPATIAL_COMPRESSION,
            width // SPATIAL_COMPRESSION,
        )
        noise = np.stack([address.draw(shape) for address in addresses])
        scores = [score for score in motion if score is not None]
        if len(scores) not in (0, len(captions)):
            raise ValueError(f"{len(scores)} of {len(captions)} clips of a batch have a motion score: give all or none")
        return make_frames(
            self.model,
            self.autoencoder,
            self.text_encoder,
            [compose(system_prompt, caption) for caption in captions],
            compose(system_prompt, negative_prompt),
            torch.from_numpy(noise),
            sampler,
            device=device or self.model.device,
            tiling=tiling,
            offload=offload,
            motion=scores or None,
        )
