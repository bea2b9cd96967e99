"""Packed attention: every kernel equals a plain reference, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.models.attention import packed_attention, segments

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the packed kernel needs CUDA")
@pytest.mark.parametrize("head_dim", [32, 128, 144])
def test_cuda_kernel_equals_the_reference(head_dim: int) -> None:
    q_lengths, k_lengths = (3, 1, 200), (2, 70, 5)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(sum(q_lengths), 4, head_dim, generator=generator)
    k, v = (torch.randn(sum(k_lengths), 2, head_dim, generator=generator) for _ in range(2))
    gpu = torch.device("cuda")
    half = [x.to(gpu, torch.bfloat16).requires_grad_() for x in (q, k, v)]
    full = [x.detach().float().cpu().requires_grad_() for x in half]
    places = segments(q_lengths, gpu), segments(k_lengths, gpu)
    got = packed_attention(half[0], half[1], half[2], *places)
    want = reference(full[0], full[1], full[2], q_lengths, k_lengths)
    torch.testing.assert_close(got.float().cpu(), want, rtol=2e-2, atol=2e-2)
    got.float().square().sum().backward()
    want.square().sum().backward()
    for ours, theirs in zip(half, full, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.float().cpu(), theirs.grad, rtol=5e-2, atol=5e-2)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        segments((3, 0), CPU)
    q = torch.zeros(4, 2, 16)
    with pytest.raises(ValueError, match="2 items of queries but 1 of keys"):
        packed_attention(q, q, q, segments((2, 2), CPU), segments((4,), CPU))
