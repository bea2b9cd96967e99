"""MultiScaleNextDiT: one transformer for all patch sizes, with a patch embedder and a final layer per scale.

Paper section 3.1. Parameter names are those of the released checkpoints. Shape letters: N items, T tokens of all items
packed, L tokens of one item, C latent channels, F frames, D model width, A conditioning width, Y text width,
h query heads, g key heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina.models.activation_checkpointing import Recompute, recomputed
from lumina.models.attention import Segments, packed_attention, segments
from lumina.models.block_cache import BlockCache
from lumina.models.config import NextDiTConfig, PatchSize, patch_key
from lumina.models.patches import Tokens, patchify, unpatchify
from lumina.models.rope import rotate

SINUSOID_WIDTH = 256
QK_NORM_EPS = 1e-5
FINAL_NORM_EPS = 1e-6


class Linear(nn.Linear):
    """A linear layer whose values are set by `MultiScaleNextDiT.initialise`, not by the global generator."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class RMSNorm(nn.Module):
    """The weight of x / sqrt(mean(x^2) + eps) * weight; the blocks merge it with the adaLN factors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


def normalise(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis."""
    return F.rms_norm(x, x.shape[-1:], None, eps)


@dataclass(frozen=True, eq=False)
class TextCondition:
    """What the model needs of a batch of prompts: constant over the sampling steps, so computed once per prompt."""

    pooled: Tensor
    """[N, A] embedding of the mean text feature."""
    keys: tuple[Tensor, ...]
    """Per block [T, g, d] caption keys, packed."""
    values: tuple[Tensor, ...]
    """Per block [T, g, d] caption values, packed."""
    segments: Segments
    """The prompts' places in keys and values."""

    def select(self, items: Sequence[int]) -> TextCondition:
        """Keep the prompts at these positions, in this order; a leading run is a view."""
        if list(items) == list(range(len(self.pooled))):
            return self
        lengths = self.segments.lengths
        places = segments(tuple(lengths[item] for item in items), self.pooled.device)
        if list(items) == list(range(len(items))):
            return TextCondition(
                pooled=self.pooled[: len(items)],
                keys=tuple(keys[: places.total] for keys in self.keys),
                values=tuple(values[: places.total] for values in self.values),
                segments=places,
            )

        def pick(packed: Tensor) -> Tensor:
            parts = packed.split(lengths)
            return torch.cat([parts[item] for item in items])

        return TextCondition(
            pooled=self.pooled[list(items)],
            keys=tuple(map(pick, self.keys)),
            values=tuple(map(pick, self.values)),
            segments=places,
        )


class SinusoidEmbedder(nn.Module):
    """A scalar per item to a conditioning vector: 256-wide sinusoid, then a two-layer MLP."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(SINUSOID_WIDTH, out_dim), nn.SiLU(), Linear(out_dim, out_dim))

    def forward(self, value: Tensor) -> Tensor:
        """Embed value [N] to [N, A]."""
        weight = cast(Linear, self.mlp[0]).weight
        return cast(Tensor, self.mlp(sinusoid(value).to(weight.dtype)))


def sinusoid(value: Tensor) -> Tensor:
    """[N] to [N, 256] float32: cos then sin of value * 10000^(-k/128), k = 0..127."""
    half = SINUSOID_WIDTH // 2
    index = torch.arange(half, dtype=torch.float32, device=value.device)
    argument = value.float()[:, None] * torch.exp(index * (-math.log(10000.0) / half))
    return torch.cat([argument.cos(), argument.sin()], dim=-1)


class Attention(nn.Module):
    """Self-attention plus tanh-gated attention to the caption; both use the same rotated queries."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_dim = config.kv_heads * config.head_dim
        self.wq = Linear(config.dim, config.dim, bias=False)
        self.wk = Linear(config.dim, kv_dim, bias=False)
        self.wv = Linear(config.dim, kv_dim, bias=False)
        self.wk_y = Linear(config.cap_feat_dim, kv_dim, bias=False)
        self.wv_y = Linear(config.cap_feat_dim, kv_dim, bias=False)
        self.wo = Linear(config.dim, config.dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.n_heads))
        # The norms act on all heads together.
        self.q_norm = nn.LayerNorm(config.dim, eps=QK_NORM_EPS) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(kv_dim, eps=QK_NORM_EPS) if config.qk_norm else nn.Identity()
        self.ky_norm = nn.LayerNorm(kv_dim, eps=QK_NORM_EPS) if config.qk_norm else nn.Identity()

    def text_keys_values(self, y: Tensor, y_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Caption keys and values [T, g, d] of normalised features y [T, Y]; y_weight [Y] is their norm's weight.

        The weight is folded into the matrices, which are the smaller side.
        """
        keys = self.ky_norm(F.linear(y, self.wk_y.weight * y_weight))
        values = F.linear(y, self.wv_y.weight * y_weight)
        return self._heads(keys), self._heads(values)

    def forward(self, x: Tensor, tokens: Tokens, text_k: Tensor, text_v: Tensor, text_segments: Segments) -> Tensor:
        """Attend within each item and to its caption: x [n, l, D] to [n, l, D]."""
        q = rotate(self._heads(self.q_norm(self.wq(x))), tokens.rotation).flatten(0, 1)
        k = rotate(self._heads(self.k_norm(self.wk(x))), tokens.rotation).flatten(0, 1)
        v = self._heads(self.wv(x)).flatten(0, 1)
        own = packed_attention(q, k, v, tokens.segments, tokens.segments)
        caption = packed_attention(q, text_k, text_v, tokens.segments, text_segments)
        mixed = torch.addcmul(own, caption, self.gate.tanh()[:, None])
        return cast(Tensor, self.wo(mixed.reshape(x.shape)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden, bias=False)
        self.w2 = Linear(hidden, dim, bias=False)
        self.w3 = Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return cast(Tensor, self.w2(F.silu(self.w1(x)) * self.w3(x)))


class Block(nn.Module):
    """Attention and feed-forward, each between two norms, scaled before and tanh-gated after by the condition."""

    def __init__(self, config: NextDiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.recompute: Recompute = "none"
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim)
        self.attention_norm1 = RMSNorm(config.dim)
        self.attention_norm2 = RMSNorm(config.dim)
        self.ffn_norm1 = RMSNorm(config.dim)
        self.ffn_norm2 = RMSNorm(config.dim)
        self.attention_y_norm = RMSNorm(config.cap_feat_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(config.condition_dim, 4 * config.dim))

    def forward(
        self, x: Tensor, condition: Tensor, tokens: Tokens, text_k: Tensor, text_v: Tensor, text_segments: Segments
    ) -> Tensor:
        """x [n, l, D] to [n, l, D]; condition [N, A]."""

        # Inside of what is compiled, which can then tell what is kept.
        def branches(x: Tensor, condition: Tensor, text_k: Tensor, text_v: Tensor) -> Tensor:
            return self._branches(x, condition, tokens, text_k, text_v, text_segments)

        return recomputed(self.recompute, branches, x, condition, text_k, text_v)

    def _branches(
        self, x: Tensor, condition: Tensor, tokens: Tokens, text_k: Tensor, text_v: Tensor, text_segments: Segments
    ) -> Tensor:
        scale1, gate1, scale2, gate2 = tokens.expand(self.adaLN_modulation(condition)).chunk(4, dim=-1)
        # One factor per item and channel holds the norm's weight and the condition's scale or gate.
        inner = normalise(x, self.eps) * torch.addcmul(self.attention_norm1.weight, self.attention_norm1.weight, scale1)
        inner = self.attention(inner, tokens, text_k, text_v, text_segments)
        x = torch.addcmul(x, normalise(inner, self.eps), gate1.tanh() * self.attention_norm2.weight)
        inner = normalise(x, self.eps) * torch.addcmul(self.ffn_norm1.weight, self.ffn_norm1.weight, scale2)
        inner = self.feed_forward(inner)
        return torch.addcmul(x, normalise(inner, self.eps), gate2.tanh() * self.ffn_norm2.weight)


class FinalLayer(nn.Module):
    """Tokens to patches of velocity: scaled layer norm, then one linear layer."""

    def __init__(self, config: NextDiTConfig, patch: PatchSize) -> None:
        super().__init__()
        self.linear = Linear(config.dim, math.prod(patch) * config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(config.condition_dim, config.dim))

    def forward(self, x: Tensor, condition: Tensor, tokens: Tokens) -> Tensor:
        """x [n, l, D], condition [N, A] to [n, l, pt*ph*pw*C]."""
        scale = tokens.expand(self.adaLN_modulation(condition))
        return cast(Tensor, self.linear(F.layer_norm(x, x.shape[-1:], eps=FINAL_NORM_EPS) * (1 + scale)))


class MultiScaleNextDiT(nn.Module):
    """Velocity of noisy latents at one of several patch sizes.

    Args:
        config: the model's shape.
        generator: draws the initial weights (the released initialisation); None is a generator seeded with 0.
            Nothing is drawn for a model built under `torch.device("meta")`.
    """

    def __init__(self, config: NextDiTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        keys = {patch_key(patch): patch for patch in config.patch_sizes}
        self.all_x_embedder = nn.ModuleDict(
            {key: Linear(math.prod(patch) * config.in_channels, config.dim) for key, patch in keys.items()}
        )
        self.all_final_layer = nn.ModuleDict({key: FinalLayer(config, patch) for key, patch in keys.items()})
        self.t_embedder = SinusoidEmbedder(config.condition_dim)
        self.motion_embedder = SinusoidEmbedder(config.condition_dim)
        self.cap_embedder = nn.Sequential(
            nn.LayerNorm(config.cap_feat_dim), Linear(config.cap_feat_dim, config.condition_dim)
        )
        self.layers = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        # Part of every released checkpoint, used by nothing.
        self.pad_token = nn.Parameter(torch.empty(config.dim))
        if not self.pad_token.is_meta:
            self.initialise(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the released initial weights: every branch starts as zero, so the model starts as its skip path."""
        zero = ("adaLN_modulation.1.", ".linear.", "cap_embedder.1.", "motion_embedder.mlp.2.", "attention.gate")
        for name, parameter in self.named_parameters():
            if any(part in name for part in zero) or name.endswith(".bias"):
                parameter.zero_()
            elif name == "pad_token" or "_embedder.mlp." in name:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(1.0)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, in which the model computes."""
        return self.pad_token.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pad_token.device

    def compile_blocks(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile every block on its own with `torch.compile`, for token counts that change from call to call.

        All blocks share what is compiled. Another number of text or latent tokens compiles nothing anew; a first call
        with items of unlike lengths, or with gradients, does once.
        """
        for block in self.layers:
            # Beyond the limit torch says so in its log, and goes on without compiling: scales, single items and items
            # of unlike lengths make more than the usual 8 kinds of call.
            block.compile(backend=backend, dynamic=True, recompile_limit=64)

    def checkpoint_blocks(self, mode: Recompute) -> None:
        """Choose what the backward pass computes again in every block: time for memory, at equal bits.

        "none" keeps everything; "per-op" keeps the results of matrix products and of attention; "attention" keeps
        those of attention and the blocks' inputs, "full" the blocks' inputs alone. Without gradients nothing is kept,
        and nothing changes.
        """
        for block in cast(Sequence[Block], self.layers):
            block.recompute = mode

    def encode_text(self, text: Sequence[Tensor]) -> TextCondition:
        """Pool the text features [L_i, Y] of N prompts and project them to every block's keys and values."""
        for row, features in enumerate(text):
            if features.ndim != 2 or features.shape[1] != self.config.cap_feat_dim:
                raise ValueError(
                    f"text features {row} must have shape [L, {self.config.cap_feat_dim}], got {list(features.shape)}"
                )
        packed = torch.cat(list(text)).to(self.device)
        places = segments(tuple(len(features) for features in text), packed.device)
        wide = packed.float()
        sums = wide.new_zeros(len(text), wide.shape[1]).index_add_(0, places.item_of_token, wide)
        means = sums / places.offsets.diff()[:, None]
        # Every block reads the same features, so they are normalised once; only the weights differ.
        normalised = normalise(wide, self.config.norm_eps).to(self.dtype)
        pairs = [
            block.attention.text_keys_values(normalised, block.attention_y_norm.weight)
            for block in cast(Sequence[Block], self.layers)
        ]
        return TextCondition(
            pooled=self.cap_embedder(means.to(self.dtype)),
            keys=tuple(keys for keys, _ in pairs),
            values=tuple(values for _, values in pairs),
            segments=places,
        )

    def condition(self, t: Tensor, pooled: Tensor, motion: Tensor) -> Tensor:
        """Conditioning vectors [N, A] of time, caption and motion; t is scaled in its own dtype, as released."""
        score = motion * self.config.motion_scale
        moving = torch.where((score < 0)[:, None], 0, self.motion_embedder(score))
        return cast(Tensor, self.t_embedder(t * self.config.t_scale) + pooled + moving)

    @overload
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Sequence[Tensor] | TextCondition,
        motion: Tensor,
        patch: PatchSize,
        cache: BlockCache | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Sequence[Tensor],
        t: Tensor,
        text: Sequence[Tensor] | TextCondition,
        motion: Tensor,
        patch: PatchSize,
        cache: BlockCache | None = None,
    ) -> list[Tensor]: ...

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        t: Tensor,
        text: Sequence[Tensor] | TextCondition,
        motion: Tensor,
        patch: PatchSize,
        cache: BlockCache | None = None,
    ) -> Tensor | list[Tensor]:
        """Predict the velocity of N noisy latents.

        Args:
            x: latents [C, F, H, W] of any sizes, or one tensor [N, C, F, H, W]; F, H, W are multiples of the patch
                size, except that F = 1 serves at every scale.
            t: [N], 0 is noise and 1 is data.
            text: N text features [L_i, Y], or what `encode_text` made of them.
            motion: [N] motion scores; negative means dropped.
            patch: (pt, ph, pw), one of the model's scales.
            cache: kept over a sampling run, whose t are equal in a batch; lets evaluations reuse what the blocks did.

        Returns:
            The velocities, shaped and grouped as x, in the dtype of the weights.
        """
        self.config.check_patch(patch)
        if not len(x) == len(t) == len(motion):
            raise ValueError(f"got {len(x)} latents, {len(t)} times and {len(motion)} motion scores")
        condition_text = text if isinstance(text, TextCondition) else self.encode_text(text)
        if len(condition_text.pooled) != len(x):
            raise ValueError(f"got {len(x)} latents but {len(condition_text.pooled)} prompts")
        key = patch_key(patch)
        tokens = patchify(x, patch, self.config)
        condition = self.condition(t, condition_text.pooled, motion)

        def blocks(hidden: Tensor) -> Tensor:
            for block, text_k, text_v in zip(self.layers, condition_text.keys, condition_text.values, strict=True):
                hidden = block(hidden, condition, tokens, text_k, text_v, condition_text.segments)
            return hidden

        # Copied, since torch.compile would take a view, which later blocks do not get, for another kind of call.
        hidden = self.all_x_embedder[key](tokens.values.to(self.dtype)).clone()
        if cache is None:
            hidden = blocks(hidden)
        else:
            [embedding] = self.t_embedder(t[:1] * self.config.t_scale)
            hidden = cache.step((key, hidden.shape), embedding, hidden, blocks)
        return unpatchify(self.all_final_layer[key](hidden, condition, tokens), tokens, batched=isinstance(x, Tensor))
