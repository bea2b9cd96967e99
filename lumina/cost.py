"""What a model costs: tokens, floating-point operations and bytes, from arithmetic alone (paper Table 2).

One multiply-add counts as two operations. Matrix products and attention are counted exactly, with the shared key heads
of grouped-query attention; element-wise work is left out. Letters: L tokens of a clip, T tokens of its text, D width,
K width of keys, M feed-forward width, A conditioning width, Y text width, P numbers in a patch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lumina.flow_matching.sampler import time_grid
from lumina.flow_matching.schedules import SamplerConfig, value_at
from lumina.models.config import NextDiTConfig, PatchSize
from lumina.models.next_dit import SINUSOID_WIDTH, MultiScaleNextDiT

LatentSize = tuple[int, int, int]
"""Frames, rows and columns of a latent."""


@dataclass(frozen=True)
class ForwardCost:
    """One evaluation of one clip at one scale, in floating-point operations."""

    tokens: int
    linear: int
    """Projections, feed-forward layers, patch embedder and final layer."""
    attention: int
    """Scores and sums of self-attention."""
    caption: int
    """Scores and sums of attention to the text."""
    conditioning: int
    """Time, motion and caption vectors, and the scales and gates that every layer makes of them."""

    @property
    def flops(self) -> int:
        """All of them."""
        return self.linear + self.attention + self.caption + self.conditioning


def parameters(config: NextDiTConfig) -> int:
    """Number of weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MultiScaleNextDiT(config).parameters())


def token_cost(config: NextDiTConfig, patch: PatchSize) -> tuple[int, int]:
    """Return (a, b): one evaluation of N tokens of one clip takes a N + b N^2 operations, its text left out."""
    d, k = config.dim, config.kv_heads * config.head_dim
    block = 2 * d * d + 2 * d * k + 3 * d * config.ffn_dim
    numbers = math.prod(patch) * config.in_channels
    return 2 * (config.n_layers * block + 2 * numbers * d), 2 * config.n_layers * 2 * d


def forward_cost(config: NextDiTConfig, size: LatentSize, patch: PatchSize, text_tokens: int) -> ForwardCost:
    """Count one evaluation; the text's keys and values are `text_cost`. Raises ValueError if the patch does not fit."""
    config.check_patch(patch)
    # A single frame is an image, which every scale takes.
    if any(length % step for length, step in zip(size, patch, strict=True)) and (size[0] != 1 or size[1] % patch[1]):
        raise ValueError(f"latent size {size} (frames, rows, columns) is not a multiple of the patch {patch}")
    d, a = config.dim, config.condition_dim
    tokens = max(size[0] // patch[0], 1) * (size[1] // patch[1]) * (size[2] // patch[2])
    per_token, per_pair = token_cost(config, patch)
    embedders = 2 * (SINUSOID_WIDTH * a + a * a) + config.cap_feat_dim * a
    return ForwardCost(
        tokens=tokens,
        linear=per_token * tokens,
        attention=per_pair * tokens * tokens,
        caption=2 * config.n_layers * 2 * tokens * text_tokens * d,
        conditioning=2 * (config.n_layers * a * 4 * d + a * d + embedders),
    )


def text_cost(config: NextDiTConfig, text_tokens: int) -> int:
    """Operations for the keys and values of one text in all blocks: once per clip in sampling, per step in training."""
    return 2 * config.n_layers * 2 * text_tokens * config.cap_feat_dim * config.kv_heads * config.head_dim


def key_bytes(config: NextDiTConfig, tokens: int, text_tokens: int, bytes_per_number: int) -> int:
    """Bytes of keys and values: of one block's tokens, and of the text in all blocks, which sampling keeps."""
    return 2 * config.kv_heads * config.head_dim * bytes_per_number * (tokens + config.n_layers * text_tokens)


@dataclass(frozen=True)
class SamplingCost:
    """One clip, sampled by one schedule."""

    evaluations: Mapping[PatchSize, int]
    """Evaluations at each scale; a guided step takes two."""
    flops: int
    """Operations in all, with the keys and values of the texts."""


def sampling_cost(
    config: NextDiTConfig, size: LatentSize, sampler: SamplerConfig, text_tokens: int, negative_text_tokens: int
) -> SamplingCost:
    """Count the evaluations that `lumina.flow_matching.sampler.sample` makes for one clip, and their operations."""
    evaluations: Counter[PatchSize] = Counter()
    flops, guided = 0, False
    for t in time_grid(sampler.steps, sampler.time_shift)[:-1].tolist():
        patch = value_at(sampler.patches, t)
        texts = [text_tokens]
        if value_at(sampler.guidance, t) > 0:
            guided = True
            texts.append(negative_text_tokens)
        evaluations[patch] += len(texts)
        flops += sum(forward_cost(config, size, patch, length).flops for length in texts)
    texts_once = text_cost(config, text_tokens) + (text_cost(config, negative_text_tokens) if guided else 0)
    return SamplingCost(dict(evaluations), flops + texts_once)


def training_cost(config: NextDiTConfig, size: LatentSize, patch: PatchSize, text_tokens: int) -> int:
    """Operations for one sample: forward, and twice as many backward."""
    return 3 * (forward_cost(config, size, patch, text_tokens).flops + text_cost(config, text_tokens))


def activation_bytes(config: NextDiTConfig, tokens: int, bytes_per_number: int, *, training: bool) -> int:
    """Bytes of one clip's activations: those kept for the backward pass, or those live at once in an evaluation.

    Kernels that keep no attention scores; no recomputation; the text's own activations are left out.
    """
    d, k, m = config.dim, config.kv_heads * config.head_dim, config.ffn_dim
    if not training:
        # The wider of attention (input, its norm, queries, keys and values, both results) and feed-forward layer.
        return tokens * bytes_per_number * max(6 * d + 3 * k, 2 * d + 3 * m)
    block = 15 * d + 3 * k + 4 * m + 2 * config.n_heads
    return tokens * bytes_per_number * (config.n_layers * block + 3 * d)
