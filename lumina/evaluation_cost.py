"""Cost of an evaluation on one GPU: clips sampled by the real schedule, then decoded, and all networks in memory."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.cost import (
    LatentSize,
    SamplingCost,
    cache_bytes,
    evaluation_bytes,
    forward_cost,
    key_bytes,
    parameters,
    sampling_cost,
)
from lumina.flow_matching.schedules import SamplerConfig
from lumina.memory_plan import MemoryNeed
from lumina.models.config import NextDiTConfig
from lumina.prompt_length import MAX_TOKENS
from lumina.sizes import SPATIAL_COMPRESSION, generated_latents
from lumina.vae_cost import TEXT_PARAMETERS, VAE_PARAMETERS, text_flops, vae_bytes, vae_flops


@dataclass(frozen=True)
class Generation:
    """What is generated together."""

    width: int
    height: int
    num_frames: int
    clips: int
    """Of one batch."""
    bytes_per_number: int
    """Of all networks."""
    tiled: bool = False
    """Whether the VAE decodes in tiles."""

    @property
    def latent(self) -> LatentSize:
        """Frames, rows and columns."""
        return (
            generated_latents(self.num_frames),
            self.height // SPATIAL_COMPRESSION,
            self.width // SPATIAL_COMPRESSION,
        )


@dataclass(frozen=True)
class EvaluationCost:
    """One clip, and a GPU's memory at its fullest."""

    sampling: SamplingCost
    """Of one clip."""
    decode_flops: int
    text_flops: int
    """Of its prompt, and of the negative one where it is guided."""
    weights: int
    """Bytes of transformer, text encoder and VAE."""
    sampling_bytes: int
    """Live while a batch is sampled: the evaluation with the most tokens, keys and values of its texts, and tables."""
    decode_bytes: int
    """Live while a clip is decoded: the VAE takes one at a time."""

    @property
    def flops(self) -> int:
        """Of one clip."""
        return self.sampling.flops + self.decode_flops + self.text_flops

    @property
    def memory(self) -> int:
        """Bytes of one GPU; batches are sampled, then decoded."""
        return self.weights + max(self.sampling_bytes, self.decode_bytes)


def evaluation_cost(
    config: NextDiTConfig, sampler: SamplerConfig, generation: Generation, text_tokens: int
) -> EvaluationCost:
    """Count the CogVideoX VAE and Gemma-2-2b as they are released. ValueError if a scale does not fit the size."""
    size, number, items = generation.latent, generation.bytes_per_number, generation.clips
    guided = any(weight > 0 for _, weight in sampler.guidance)
    sides = 2 if guided else 1
    sampled = sampling_cost(config, size, sampler, text_tokens, text_tokens)
    # A single guided step at the finest scale decides.
    tokens = max(forward_cost(config, size, patch, text_tokens).tokens for patch in sampled.evaluations)
    live = evaluation_bytes(config, sides * items * tokens, number)
    texts = key_bytes(config, 0, sides * items * text_tokens, number)
    shape = (generation.width, generation.height, generation.num_frames)
    return EvaluationCost(
        sampling=sampled,
        decode_flops=vae_flops("decode", *shape, tiled=generation.tiled),
        text_flops=sides * text_flops(text_tokens),
        weights=number * (parameters(config) + TEXT_PARAMETERS + VAE_PARAMETERS),
        sampling_bytes=live + texts + cache_bytes(config, len(sampled.evaluations), tokens),
        decode_bytes=vae_bytes("decode", *shape, number, generation.tiled),
    )


def memory_need(
    config: NextDiTConfig,
    sampler: SamplerConfig,
    generation: Generation,
    *,
    transformer: int = 0,
    text_encoder: int = 0,
    vae: int = 0,
) -> MemoryNeed:
    """Count what lives beside the weights, whose bytes are given; the VAE is taken for the released one.

    Raises ValueError if a scale of the sampler does not fit the size.
    """
    # A single frame has one scale.
    sampler = sampler.model_copy(update={"patches": sampler.patches_of(generation.latent[0])})
    cost = evaluation_cost(config, sampler, generation, MAX_TOKENS)
    shape = (generation.width, generation.height, generation.num_frames, generation.bytes_per_number)
    return MemoryNeed(
        transformer,
        text_encoder,
        vae,
        cost.sampling_bytes,
        vae_bytes("decode", *shape),
        vae_bytes("decode", *shape, tiled=True),
    )
