"""Blocks of a Next-DiT: adaLN, attention with a tanh-gated branch to a condition, SwiGLU, and the final layer.

Paper section 3.1; parameter names are those of the released checkpoints. Shape letters: N items, T tokens of all items
packed, L tokens of one item, F time steps of one, D model width, A conditioning width, Y width of the gated branch's
features, h query heads, g key heads, d head width; n, l are N, L where all items have as many tokens, else 1, T.

A condition is [N, A], one for an item, or [n, f, A], one for each of its time steps: f is F, or those of all items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina.models.activation_checkpointing import Recompute, recomputed
from lumina.models.attention import Segments, packed_attention
from lumina.models.config import BlockShape, PatchSize
from lumina.models.patches import Tokens
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

    def __init__(self, config: BlockShape) -> None:
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

    def __init__(self, config: BlockShape) -> None:
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
        """x [n, l, D] to [n, l, D]; condition [N, A] or [n, f, A]."""

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

    def __init__(self, config: BlockShape, patch: PatchSize) -> None:
        super().__init__()
        self.linear = Linear(config.dim, math.prod(patch) * config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(config.condition_dim, config.dim))

    def forward(self, x: Tensor, condition: Tensor, tokens: Tokens) -> Tensor:
        """x [n, l, D], condition [N, A] or [n, f, A] to [n, l, pt*ph*pw*C]."""
        scale = tokens.expand(self.adaLN_modulation(condition))
        return cast(Tensor, self.linear(F.layer_norm(x, x.shape[-1:], eps=FINAL_NORM_EPS) * (1 + scale)))


class BlockStack(nn.Module):
    """A network whose `layers` are blocks."""

    layers: nn.ModuleList

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
