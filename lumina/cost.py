"""Cost of a model: tokens, floating-point operations and bytes, from arithmetic alone (paper Table 2).

One multiply-add counts as two operations. Matrix products and attention are counted exactly, with the shared key heads
of grouped-query attention; element-wise work is left out. Letters: L tokens of a clip, T tokens of its text, D width,
K width of keys, M feed-forward width, A conditioning width, Y text width, P numbers in a patch, H heads, N blocks,
b bytes of a number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from lumina.flow_matching.sampler import time_grid
from lumina.flow_matching.schedules import SamplerConfig, value_at
from lumina.models import rope
from lumina.models.blocks import SINUSOID_WIDTH
from lumina.models.config import NextDiTConfig, PatchSize, Recompute, StackShape
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.muon import orthogonal_flops, update_flops
from lumina.training.stage import LoraConfig

LatentSize = tuple[int, int, int]
"""Frames, rows and columns of a latent."""

CHECKPOINTING: tuple[Recompute, ...] = ("none", "per-op", "attention", "full")
"""From the most memory to the least."""


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
    blocks: int
    """Of all these, what the blocks do: activation checkpointing does it again."""

    @property
    def flops(self) -> int:
        """All of them."""
        return self.linear + self.attention + self.caption + self.conditioning


@lru_cache(maxsize=8)
def parameters(config: NextDiTConfig) -> int:
    """Number of weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MultiScaleNextDiT(config).parameters())


def token_cost(config: StackShape, patch: PatchSize) -> tuple[int, int]:
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
    ends, vectors = 2 * tokens * 2 * math.prod(patch) * config.in_channels * d, 2 * (a * d + embedders)
    linear, attention = per_token * tokens, per_pair * tokens * tokens
    caption = 2 * config.n_layers * 2 * tokens * text_tokens * d
    conditioning = 2 * config.n_layers * a * 4 * d
    return ForwardCost(
        tokens=tokens,
        linear=linear,
        attention=attention,
        caption=caption,
        conditioning=conditioning + vectors,
        blocks=linear - ends + attention + caption + conditioning,
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


def adapter_parameters(config: NextDiTConfig, lora: LoraConfig) -> int:
    """Numbers in the low-rank adapters of all blocks: rank * (inputs + outputs) for each target."""
    return config.n_layers * lora.rank * sum(sum(widths) for widths in _adapted(config, lora))


def _adapted(config: NextDiTConfig, lora: LoraConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers of one block that have adapters."""
    d, k, m = config.dim, config.kv_heads * config.head_dim, config.ffn_dim
    widths = {"wq": (d, d), "wk": (d, k), "wv": (d, k), "wo": (d, d), "w1": (d, m), "w2": (m, d), "w3": (d, m)}
    return [widths[target] for target in sorted(set(lora.targets))]


@lru_cache(maxsize=8)
def muon_flops(config: NextDiTConfig, lora: LoraConfig | None = None) -> int:
    """Operations by which Muon orthogonalises all matrices for one step; workers share them."""
    if lora is not None:
        pairs = [((lora.rank, inputs), (outputs, lora.rank)) for inputs, outputs in _adapted(config, lora)]
        return config.n_layers * sum(orthogonal_flops(*shape) for pair in pairs for shape in pair)
    with torch.device("meta"):
        return update_flops(MultiScaleNextDiT(config).named_parameters())


def training_cost(
    config: NextDiTConfig,
    size: LatentSize,
    patch: PatchSize,
    text_tokens: int,
    checkpointing: Recompute = "none",
    lora: LoraConfig | None = None,
) -> int:
    """Operations for one sample, forward and backward, with what checkpointing computes again.

    The backward pass takes twice the forward: a product's gradient goes to its input and to its weight. With adapters
    the frozen weights get none, and neither does what lies before the first adapter: text and conditioning. Per-op
    checkpointing repeats element-wise work alone, which is not counted; full checkpointing repeats the blocks, and
    attention checkpointing all of them but attention.
    """
    cost = forward_cost(config, size, patch, text_tokens)
    attention = cost.attention + cost.caption
    again = {"full": cost.blocks, "attention": cost.blocks - attention}.get(checkpointing, 0)
    if lora is None:
        return 3 * (cost.flops + text_cost(config, text_tokens)) + again
    adapters = 2 * cost.tokens * adapter_parameters(config, lora)
    forward = cost.flops + text_cost(config, text_tokens) + adapters
    backward = cost.linear + 2 * (cost.attention + cost.caption + adapters)
    return forward + backward + again + (adapters if checkpointing in ("full", "attention") else 0)


def evaluation_bytes(config: NextDiTConfig, tokens: int, bytes_per_number: int) -> int:
    """Bytes that are live at once in an evaluation without gradients: the wider half of one block.

    Attention holds input, its norm, queries, keys and values and both results; the feed-forward layer its input, norm
    and three times its width. Callers keep the tokens as they were embedded and as the block got them: 2 D more.
    """
    d, k, m = config.dim, config.kv_heads * config.head_dim, config.ffn_dim
    return tokens * bytes_per_number * max(8 * d + 3 * k, 4 * d + 3 * m)


def cache_bytes(config: NextDiTConfig, grids: int, tokens: int) -> int:
    """Bytes of tables that stay on the device: rotations of so many grids, each of so many tokens at most.

    4 bytes for each channel of a head and token, up to `lumina.models.rope.CACHE_BYTES`. Those of packed items are
    smaller, `lumina.models.attention.TABLE_BYTES` at most, and are left out.
    """
    return min(rope.CACHE_BYTES, grids * tokens * config.head_dim * 4)


def kept_bytes(
    config: StackShape,
    tokens: int,
    text_tokens: int,
    bytes_per_number: int,
    checkpointing: Recompute = "none",
    *,
    unlike: bool = False,
) -> int:
    """Bytes that one forward pass keeps for its backward pass; `tokens` and `text_tokens` are those of all its items.

    b * (L * (N * block + 3 D) + T * (3 N K + Y)), where a block keeps per token
    15 D + 3 K + 4 M + 2 H with nothing computed again, and 10 D more where its items are `unlike`: of several lengths,
    so that the condition's scales and gates are spread over the tokens;
    6 D + 2 K + 2 M + 2 H per-op: its input and the results of its matrix products and attention;
    3 D + 2 H in attention checkpointing: its input and the two results of attention;
    D in full checkpointing: its input.
    Kernels that keep no attention scores, and CUDA's RMS norm: the CPU's keeps 4 D more per block in bfloat16.
    The text's keys and values are made outside the blocks.
    """
    k = config.kv_heads * config.head_dim
    block = _kept_by_block(config, checkpointing, unlike)
    text = text_tokens * (3 * config.n_layers * k + config.cap_feat_dim)
    return bytes_per_number * (tokens * (config.n_layers * block + 3 * config.dim) + text)


def activation_bytes(
    config: StackShape,
    tokens: int,
    text_tokens: int,
    bytes_per_number: int,
    checkpointing: Recompute = "none",
    *,
    unlike: bool = False,
) -> int:
    """Most bytes of activations that a training pass has at once: in the backward pass, at its last block.

    `kept_bytes`, and what one block computes again, and two tensors of L D numbers: gradients on their way.
    """
    again = _kept_by_block(config, "none", unlike) - _kept_by_block(config, checkpointing, unlike)
    kept = kept_bytes(config, tokens, text_tokens, bytes_per_number, checkpointing, unlike=unlike)
    return kept + tokens * bytes_per_number * (again + 2 * config.dim)


def _kept_by_block(config: StackShape, checkpointing: Recompute, unlike: bool) -> int:
    """Numbers per token."""
    d, k, m, heads = config.dim, config.kv_heads * config.head_dim, config.ffn_dim, config.n_heads
    if checkpointing == "full":
        return d
    if checkpointing == "attention":
        return 3 * d + 2 * heads
    if checkpointing == "per-op":
        return 6 * d + 2 * k + 2 * m + 2 * heads
    return 15 * d + 3 * k + 4 * m + 2 * heads + (10 * d if unlike else 0)
