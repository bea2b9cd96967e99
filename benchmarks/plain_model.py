"""A network written for comparison: what MultiScaleNextDiT computes, the way the released code does it.

A complex rotary table for every position, four gathers of adaLN factors to one row per token, keys and values of the
text anew in every evaluation, and captions padded to one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lumina.models.config import PatchSize, patch_key
from lumina.models.next_dit import MultiScaleNextDiT

TABLE = (16, 32, 32)
"""Positions of the reference's rotary table; the released one has 64 x 128 x 128."""


class PlainNextDiT:
    """The same function of the same weights, computed the straightforward way."""

    def __init__(self, model: MultiScaleNextDiT, table: tuple[int, int, int] = TABLE, recompute: bool = False) -> None:
        """`table` is the largest grid of tokens; `recompute` computes all blocks again for the backward pass."""
        self.recompute = recompute
        self.config = model.config
        self.w = dict(model.named_parameters())
        self.model = model
        width = 8 * (self.config.head_dim // 8)
        axes = (width // 4, 3 * width // 8, 3 * width // 8)
        angles = []
        for axis, (length, size) in enumerate(zip(axes, table, strict=True)):
            rates = self.config.rope_theta ** (-torch.arange(0, length, 2, dtype=torch.float64) / length)
            grid = torch.outer(torch.arange(size, dtype=torch.float64), rates)
            shape = [1, 1, 1, length // 2]
            shape[axis] = size
            angles.append(grid.view(shape).expand(*table, -1))
        whole = torch.cat(angles, dim=-1)
        self.table = torch.polar(torch.ones_like(whole), whole).to(torch.complex64).to(model.device)

    def __call__(
        self, x: Tensor, t: Tensor, text: Sequence[Tensor], motion: Tensor, patch: PatchSize, _cache: object = None
    ) -> Tensor:
        config, w, n = self.config, self.w, len(x)
        longest = max(map(len, text))
        padded = torch.stack([F.pad(one, (0, 0, 0, longest - len(one))) for one in text])
        mask = torch.stack([torch.arange(longest, device=x.device) < len(one) for one in text])
        pooled = torch.stack([one.float().mean(0) for one in text]).to(x.dtype)
        condition = self.model.condition(t, self.model.cap_embedder(pooled), motion)
        pt, ph, pw = patch
        c, f, h, wd = x.shape[1:]
        grid = (f // pt, h // ph, wd // pw)
        cut = x.reshape(n, c, grid[0], pt, grid[1], ph, grid[2], pw)
        hidden = cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(n, -1, pt * ph * pw * c)
        key = patch_key(patch)
        hidden = F.linear(hidden, w[f"all_x_embedder.{key}.weight"], w[f"all_x_embedder.{key}.bias"])
        rotation = self.table[: grid[0], : grid[1], : grid[2]].reshape(1, -1, 1, self.table.shape[-1])
        tokens = hidden.shape[1]
        item = torch.arange(n, device=x.device).repeat_interleave(tokens)
        hidden = hidden.reshape(n * tokens, -1)
        for index in range(config.n_layers):
            block = partial(self._block, f"layers.{index}.")
            block = partial(checkpoint, block, use_reentrant=False) if self.recompute else block
            hidden = block(hidden, condition, item, n, rotation, padded, mask)
        scale = F.linear(F.silu(condition), *self._pair(f"all_final_layer.{key}.adaLN_modulation.1"))[item]
        hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + scale)
        out = F.linear(hidden, *self._pair(f"all_final_layer.{key}.linear")).reshape(n, *grid, pt, ph, pw, c)
        return out.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.w[f"{name}.weight"], self.w[f"{name}.bias"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.config.norm_eps)
        return wide.to(x.dtype) * self.w[name]

    def _rotate(self, x: Tensor, rotation: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * rotation).flatten(3).to(x.dtype)

    def _block(
        self,
        p: str,
        x: Tensor,
        condition: Tensor,
        item: Tensor,
        n: int,
        rotation: Tensor,
        text: Tensor,
        mask: Tensor,
    ) -> Tensor:
        config, w = self.config, self.w
        factors = F.linear(F.silu(condition), *self._pair(f"{p}adaLN_modulation.1")).chunk(4, dim=-1)
        scale1, gate1, scale2, gate2 = (factor[item] for factor in factors)
        inner = (self._norm(x, f"{p}attention_norm1.weight") * (1 + scale1)).view(n, -1, config.dim)
        y = self._norm(text, f"{p}attention_y_norm.weight")
        a = f"{p}attention."

        def heads(values: Tensor) -> Tensor:
            return values.unflatten(-1, (-1, config.head_dim))

        def normed(values: Tensor, name: str) -> Tensor:
            return F.layer_norm(values, values.shape[-1:], *self._pair(f"{a}{name}"), eps=1e-5)

        q = self._rotate(heads(normed(F.linear(inner, w[f"{a}wq.weight"]), "q_norm")), rotation)
        k = self._rotate(heads(normed(F.linear(inner, w[f"{a}wk.weight"]), "k_norm")), rotation)
        v = heads(F.linear(inner, w[f"{a}wv.weight"]))
        yk = heads(normed(F.linear(y, w[f"{a}wk_y.weight"]), "ky_norm"))
        yv = heads(F.linear(y, w[f"{a}wv_y.weight"]))
        groups = config.n_heads // config.kv_heads
        q, k, v, yk, yv = (z.transpose(1, 2) for z in (q, k, v, yk, yv))
        k, v, yk, yv = (z.repeat_interleave(groups, dim=1) for z in (k, v, yk, yv))
        own = F.scaled_dot_product_attention(q, k, v)
        caption = F.scaled_dot_product_attention(q, yk, yv, attn_mask=mask[:, None, None, :])
        mixed = own + caption * w[f"{a}gate"].tanh()[None, :, None, None]
        out = F.linear(mixed.transpose(1, 2).flatten(2), w[f"{a}wo.weight"]).reshape(x.shape)
        x = x + gate1.tanh() * self._norm(out, f"{p}attention_norm2.weight")
        z = self._norm(x, f"{p}ffn_norm1.weight") * (1 + scale2)
        f = f"{p}feed_forward."
        out = F.linear(F.silu(F.linear(z, w[f"{f}w1.weight"])) * F.linear(z, w[f"{f}w3.weight"]), w[f"{f}w2.weight"])
        return x + gate2.tanh() * self._norm(out, f"{p}ffn_norm2.weight")
