"""Kernels on the CPU for the operators that the GPU branches call, so that those branches run in tests.

`torch.nn.attention.varlen` and its custom operators are torch's own; only the two CUDA kernels below them are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import _scoped_library

from lumina.models import attention


@dataclass
class Calls:
    """What was asked of the kernels."""

    forward: list[tuple[int, int]] = field(default_factory=list)
    """(query heads, key heads) of every call."""
    backward: int = 0
    batched: list[tuple[torch.dtype, bool, int, int]] = field(default_factory=list)
    """(type, enable_gqa, query heads, key heads) of every batched call, while it is not compiled."""


@contextmanager
def gpu_branches() -> Iterator[Calls]:
    """Have attention take the CPU for a GPU."""
    calls = Calls()
    batched = F.scaled_dot_product_attention

    def items(q_ends: Tensor, k_ends: Tensor) -> Iterator[tuple[slice, slice]]:
        for (q_start, q_end), (k_start, k_end) in zip(*(pairwise(x.tolist()) for x in (q_ends, k_ends)), strict=True):
            yield slice(q_start, q_end), slice(k_start, k_end)

    def heads_first(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """[h, T, d] float32 each, with as many heads."""
        many = q.shape[1] // k.shape[1]
        return [x.float().transpose(0, 1) for x in (q, k.repeat_interleave(many, 1), v.repeat_interleave(many, 1))]

    def shares(q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1)

    def check(q: Tensor, k: Tensor, v: Tensor, ends: tuple[Tensor, Tensor], longest: tuple[int, int]) -> None:
        assert q.dtype == k.dtype == v.dtype in (torch.float16, torch.bfloat16)
        assert q.shape[2] % 8 == 0
        for tokens, places, most in zip((len(q), len(k)), ends, longest, strict=True):
            assert places.dtype == torch.int32
            assert places[-1] == tokens
            assert type(most) is int
            assert places.diff().max() == most

    def forward(
        q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, max_q: int, max_k: int, dropout: float,
        is_causal: bool, return_debug_mask: bool, *, scale: float | None = None, **_rest: object,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        check(q, k, v, (q_ends, k_ends), (max_q, max_k))
        assert (dropout, is_causal, return_debug_mask, scale) == (0, False, False, None)
        calls.forward.append((q.shape[1], k.shape[1]))
        wide_q, wide_k, wide_v = heads_first(q, k, v)
        out = torch.empty_like(q)
        for own, seen in items(q_ends, k_ends):
            out[own] = (shares(wide_q[:, own], wide_k[:, seen]) @ wide_v[:, seen]).transpose(0, 1)
        unused = torch.empty(0)
        return out, torch.zeros(q.shape[1], len(q)), unused, unused, unused

    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, q_ends: Tensor, k_ends: Tensor,
        max_q: int, max_k: int, dropout: float, is_causal: bool, state: Tensor, unused: Tensor, *,
        scale: float | None = None, **_rest: object,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        check(q, k, v, (q_ends, k_ends), (max_q, max_k))
        assert (dropout, is_causal, scale) == (0, False, None)
        calls.backward += 1
        wide_q, wide_k, wide_v = heads_first(q, k, v)
        wide = grad.float().transpose(0, 1)
        of_q, of_k, of_v = (torch.empty_like(x) for x in (wide_q, wide_k, wide_v))
        for own, seen in items(q_ends, k_ends):
            share = shares(wide_q[:, own], wide_k[:, seen])
            of_share = wide[:, own] @ wide_v[:, seen].transpose(1, 2)
            of_score = share * (of_share - (share * of_share).sum(-1, keepdim=True)) / q.shape[2] ** 0.5
            of_v[:, seen] = share.transpose(1, 2) @ wide[:, own]
            of_q[:, own], of_k[:, seen] = of_score @ wide_k[:, seen], of_score.transpose(1, 2) @ wide_q[:, own]
        of_k, of_v = (x.unflatten(0, (k.shape[1], -1)).sum(1) for x in (of_k, of_v))
        return tuple(x.transpose(0, 1).to(q.dtype).contiguous() for x in (of_q, of_k, of_v))

    def noted(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, enable_gqa: bool) -> Tensor:
        if not torch.compiler.is_compiling():
            calls.batched.append((q.dtype, enable_gqa, q.shape[1], k.shape[1]))
        return batched(q, k, v, attn_mask=attn_mask, enable_gqa=enable_gqa)

    with (
        _scoped_library("aten", "IMPL") as library,
        patch.object(attention, "GPU", "cpu"),
        patch.object(attention.F, "scaled_dot_product_attention", noted),
    ):
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield calls
