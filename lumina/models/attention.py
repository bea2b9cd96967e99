"""Packed attention: items of any length behind one another, and no item sees another.

One interface over three kernels, equal within rounding:
- items of equal length: one batched scaled-dot-product call, on any device, with the key heads repeated where a GPU
  has no fused kernel that shares them (float32);
- ragged items on CUDA in half precision: `torch.nn.attention.varlen`, without padding;
- ragged items otherwise: keys padded inside and masked when queries are equal, else one call per item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina.models.device_tables import TableCache, upload

TABLE_BYTES = 64 << 20
"""Bytes of segments' tables that a process keeps at most, on its device."""


GPU = "cuda"
"""Type of the devices whose kernels take items of unlike lengths, and no float32 with shared key heads."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Where the items of a packed sequence lie."""

    lengths: tuple[int, ...]
    """Tokens of each item."""
    offsets: Tensor
    """[N + 1] int32: item i is offsets[i]..offsets[i + 1]."""
    item_of_token: Tensor
    """[T] int64: which item each token belongs to."""
    padded_index: Tensor
    """[N * longest] int64: packed position of each slot of the padded layout; 0 in padding."""
    padding_mask: Tensor
    """[N, 1, 1, longest] bool: True at real tokens."""
    # Worked out once, so that a compiled block depends on single numbers, and not on the lengths of all items.
    items: int
    """Number of items."""
    total: int
    """All tokens."""
    longest: int
    """Tokens of the longest item."""
    equal: bool
    """Whether all items have the same length."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(x.nbytes for x in (self.offsets, self.item_of_token, self.padded_index, self.padding_mask))


def _segments(lengths: tuple[int, ...], device: torch.device) -> Segments:
    if not lengths or min(lengths) < 1:
        raise ValueError(f"every item needs at least one token, got lengths {lengths}")
    # The cache outlives the caller: a tensor made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        sizes = torch.tensor(lengths)
        ends = torch.cumsum(sizes, 0)
        starts = ends - sizes
        slot = torch.arange(max(lengths)).expand(len(lengths), -1)
        mask = slot < sizes[:, None]
        return Segments(
            lengths=lengths,
            offsets=upload(F.pad(ends, (1, 0)).to(torch.int32), device),
            item_of_token=upload(torch.repeat_interleave(torch.arange(len(lengths)), sizes), device),
            padded_index=upload(torch.where(mask, starts[:, None] + slot, 0).flatten(), device),
            padding_mask=upload(mask[:, None, None, :], device),
            items=len(lengths),
            total=sum(lengths),
            longest=max(lengths),
            equal=len(set(lengths)) == 1,
        )


segments = TableCache(_segments, lambda made: made.nbytes, TABLE_BYTES)
"""segments(lengths, device): the layout of items of the given lengths. Raises ValueError when there is none or one is
empty."""


def packed_attention(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each item; query head j uses key head j // (h/g).

    Args:
        q: [Tq, h, d] queries of all items, packed.
        k: [Tk, g, d] keys; g divides h.
        v: [Tk, g, d] values.
        q_segments: the items of q.
        k_segments: the items of k and v, as many as of q.

    Returns:
        [Tq, h, d].
    """
    if q_segments.items != k_segments.items:
        raise ValueError(f"{q_segments.items} items of queries but {k_segments.items} of keys")
    if q_segments.equal and k_segments.equal:
        return _batched(q, k, v, q_segments.items, None)
    if q.device.type == GPU and q.dtype in (torch.float16, torch.bfloat16):
        return _varlen(q, k, v, q_segments, k_segments)
    if q_segments.equal:
        index = k_segments.padded_index
        keys, values = k.index_select(0, index), v.index_select(0, index)
        return _batched(q, keys, values, q_segments.items, k_segments.padding_mask)
    return _one_by_one(q, k, v, q_segments, k_segments)


def _batched(q: Tensor, k: Tensor, v: Tensor, items: int, mask: Tensor | None) -> Tensor:
    # A plain truth value also while compiling, where sizes are symbols.
    many_heads = True if q.shape[1] != k.shape[1] else False  # noqa: SIM210
    if many_heads and q.device.type == GPU and q.dtype == torch.float32:
        # No fused kernel shares key heads in float32: torch would make the whole matrix of scores.
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        many_heads = False
    q, k, v = (x.unflatten(0, (items, -1)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=many_heads)
    return out.transpose(1, 2).flatten(0, 1)


@torch.compiler.disable
def _one_by_one(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    parts = zip(q.split(q_segments.lengths), k.split(k_segments.lengths), v.split(k_segments.lengths), strict=True)
    return torch.cat([_batched(*part, items=1, mask=None) for part in parts])


def _varlen(q: Tensor, k: Tensor, v: Tensor, q_segments: Segments, k_segments: Segments) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        q,
        k,
        v,
        q_segments.offsets,
        k_segments.offsets,
        q_segments.longest,
        k_segments.longest,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return cast(Tensor, out)
