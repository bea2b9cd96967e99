"""Muon on pieces of a line: torch's own optimizers as reference, and the same bits of any number of workers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lumina.training import muon
from lumina.training.muon import Muon, orthogonal
from tests.lumina.training.group import run_group

# Pieces of two and of five workers cut through matrices; of five, one matrix into three.
SHAPES = {
    "embedder.weight": (4, 3),
    "layers.0.wq.weight": (6, 4),
    "layers.0.norm.weight": (4,),
    "layers.0.w1.weight": (5, 9),
    "layers.0.w2.weight": (3, 8),
    "head.weight": (2, 4),
}
STEPS = 4
SETTINGS = {"muon_lr_ratio": 2.5, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "fused": False}
RATES = (0.01, 0.02, 0.03, 0.01)


def _places() -> list[tuple[str, tuple[int, ...], int]]:
    found, start = [], 0
    for name, shape in SHAPES.items():
        found.append((name, shape, start))
        start += math.prod(shape)
    return found


def _numbers(key: int) -> Tensor:
    return torch.randn(sum(map(math.prod, SHAPES.values())), generator=torch.Generator().manual_seed(key))


def _update(out: Path) -> None:
    """Update this worker's piece, and write it down."""
    rank, world = dist.get_rank(), dist.get_world_size()
    length = math.ceil(len(_numbers(0)) / world)

    def piece(line: Tensor) -> Tensor:
        return torch.nn.functional.pad(line, (0, length * world - len(line)))[rank * length :][:length].clone()

    weights = piece(_numbers(0))
    optimizer = Muon([weights], _places(), **SETTINGS)  # type: ignore[arg-type]
    for step, rate in enumerate(RATES):
        weights.grad = piece(_numbers(step + 1))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    torch.save(weights, out / f"{world}-{rank}.pt")


def _updated(out: Path, world: int) -> Tensor:
    run_group(world, _update, out, store=out / f"store{world}")
    pieces = [torch.load(out / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]
    return torch.cat(pieces)[: len(_numbers(0))]


def _of_torch() -> Tensor:
    """The same updates by `torch.optim.Muon` and `torch.optim.AdamW`, which know of no pieces."""
    live = {
        name: _numbers(0)[at : at + math.prod(shape)].view(shape).clone().requires_grad_()
        for name, shape, at in _places()
    }
    hidden = [value for name, value in live.items() if muon.is_hidden_matrix(name, value.shape)]
    others = [value for value in live.values() if all(value is not one for one in hidden)]
    one = torch.optim.Muon(
        hidden, momentum=muon.MOMENTUM, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )  # fmt: skip
    two = torch.optim.AdamW(others, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step, rate in enumerate(RATES):
        grads = _numbers(step + 1)
        for name, shape, at in _places():
            live[name].grad = grads[at : at + math.prod(shape)].view(shape)
        one.param_groups[0]["lr"], two.param_groups[0]["lr"] = 2.5 * rate, rate
        one.step()
        two.step()
    return torch.cat([value.detach().flatten() for value in live.values()])


def test_any_number_of_workers_updates_to_the_same_bits(tmp_path: Path) -> None:
    one = _updated(tmp_path, 1)
    for world in (2, 5):
        assert torch.equal(_updated(tmp_path, world), one), world
    # torch orthogonalises in bfloat16, and averages the momentum, whose scale the orthogonal matrix does not show.
    expected, change = _of_torch(), one - _numbers(0)
    for name, shape, at in _places():
        part = slice(at, at + math.prod(shape))
        close = 0.03 if muon.is_hidden_matrix(name, shape) else 1e-5
        assert (one[part] - expected[part]).norm() < close * change[part].norm(), name


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (1, 5)])
def test_orthogonal_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 1e-3
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() <= values.max() < 1.3
    # The same singular vectors.
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ vh).flatten(), dim=0) > 0.97
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


def test_embeddings_heads_and_vectors_are_adamw_s() -> None:
    assert muon.is_hidden_matrix("layers.3.attention.wq.weight", (8, 8))
    for name, shape in (("layers.3.norm.weight", (8,)), ("cap_embedder.1.weight", (8, 8)), ("final.weight", (8, 8))):
        assert not muon.is_hidden_matrix(name, shape)
