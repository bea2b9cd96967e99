"""Packed attention: every kernel equals a plain reference, forward and backward."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from lumina.models.attention import packed_attention, segments
from tests.lumina.models.gpu_kernels import gpu_branches

CPU = torch.device("cpu")


def reference(q: Tensor, k: Tensor, v: Tensor, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]) -> Tensor:
    """Masked attention over everything, written out."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
    own = segments(q_lengths, CPU).item_of_token[:, None] == segments(k_lengths, CPU).item_of_token
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~own, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"), [((4, 4, 4), (6, 6, 6)), ((4, 4, 4), (2, 7, 5)), ((3, 1, 8), (2, 7, 5)), ((5,), (3,))]
)
def test_kernels_equal_the_reference(q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(sum(q_lengths), 4, 16, generator=generator, requires_grad=True)
    k, v = (torch.randn(sum(k_lengths), 2, 16, generator=generator, requires_grad=True) for _ in range(2))
    weight = torch.randn(q.shape, generator=generator)
    got = packed_attention(q, k, v, segments(q_lengths, CPU), segments(k_lengths, CPU))
    want = reference(q, k, v, q_lengths, k_lengths)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    pairs = (torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (got, want))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def halves(q_tokens: int, k_tokens: int, heads: tuple[int, int], width: int) -> list[Tensor]:
    """Queries, keys and values in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(q_tokens, heads[0], width), *[(k_tokens, heads[1], width)] * 2]
    return [torch.randn(shape, generator=generator).to(torch.bfloat16).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("width", [32, 144])
@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"), [((3, 1, 200), (2, 70, 5)), ((60, 60), (2, 7)), ((3, 7), (3, 7)), ((4, 2), (9, 9))]
)
def test_unlike_lengths_on_gpus(
    device: str, width: int, q_lengths: tuple[int, ...], k_lengths: tuple[int, ...]
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here: the same with kernels on the CPU is the other half of this test")
    half = halves(sum(q_lengths), sum(k_lengths), (4, 2), width)
    full = [x.detach().float().requires_grad_() for x in half]
    target = torch.device(device)
    with nullcontext() if device == "cuda" else gpu_branches() as calls:
        moved = [x.to(target) for x in half]
        got = packed_attention(*moved, segments(q_lengths, target), segments(k_lengths, target))
        got.float().square().sum().backward()
    if calls is not None:
        assert calls.forward == [(4, 2)]
        assert calls.backward == 1
        assert calls.batched == []
    want = reference(full[0], full[1], full[2], q_lengths, k_lengths)
    torch.testing.assert_close(got.float().cpu(), want, rtol=2e-2, atol=2e-2)
    want.square().sum().backward()
    for ours, theirs in zip(half, full, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.float().cpu(), theirs.grad, rtol=5e-2, atol=5e-2)


def test_no_batched_call_on_gpus_shares_key_heads_in_float32() -> None:
    q, k, v = (x.detach().float() for x in halves(12, 18, (4, 2), 16))
    for q_lengths, k_lengths, batches in (
        ((4, 4, 4), (6, 6, 6), 1),
        ((4, 4, 4), (2, 9, 7), 1),
        ((4, 8), (9, 9), 2),
    ):
        places = segments(q_lengths, CPU), segments(k_lengths, CPU)
        with gpu_branches() as calls:
            got = packed_attention(q, k, v, *places)
            packed_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), *places)
            packed_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), *places)
        torch.testing.assert_close(got, reference(q, k, v, q_lengths, k_lengths), rtol=1e-5, atol=1e-6)
        assert [rest for dtype, *rest in calls.batched if dtype == torch.float32] == [[False, 4, 4]] * 2 * batches
        # Half precision has kernels for shared heads: nothing is repeated.
        halved = [rest for dtype, *rest in calls.batched if dtype == torch.bfloat16]
        assert halved == ([[True, 4, 2]] if len({*q_lengths}) == len({*k_lengths}) == 1 else [])
    with_cpu = packed_attention(q, k, v, segments((4, 4, 4), CPU), segments((6, 6, 6), CPU))
    torch.testing.assert_close(with_cpu, reference(q, k, v, (4, 4, 4), (6, 6, 6)), rtol=1e-5, atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        segments((3, 0), CPU)
    q = torch.zeros(4, 2, 16)
    with pytest.raises(ValueError, match="2 items of queries but 1 of keys"):
        packed_attention(q, q, q, segments((2, 2), CPU), segments((4,), CPU))
