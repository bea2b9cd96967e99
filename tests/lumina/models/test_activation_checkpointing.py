"""Activation checkpointing: the same bits for less memory, compiled or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lumina.models.config import PatchSize, Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.stage import LoraConfig
from lumina.training.weights.lora import add_adapters
from tests.lumina.models.storages import Storages
from tests.lumina.tiny import TINY, dit_without_zeros

EQUAL = ([(4, 2, 8, 8)] * 3, [3, 7, 5])
MIXED = ([(4, 2, 8, 8), (4, 1, 8, 4), (4, 4, 8, 8)], [3, 3, 5])
DEEPER = TINY.model_copy(update={"n_layers": 4})
Inputs = tuple[list[Tensor], Tensor, list[Tensor], Tensor, PatchSize]


def inputs(
    kind: tuple[list[tuple[int, ...]], list[int]], patch: PatchSize, dtype: torch.dtype = torch.float32
) -> Inputs:
    """Latents, times, text features, motion scores and the scale."""
    rng = torch.Generator().manual_seed(2)
    x = [torch.randn(shape, generator=rng).to(dtype) for shape in kind[0]]
    text = [torch.randn(length, TINY.cap_feat_dim, generator=rng).to(dtype) for length in kind[1]]
    return x, torch.rand(len(x), generator=rng), text, torch.tensor([-1.0, 0.0, 4.0]), patch


def train(model: MultiScaleNextDiT, batches: list[Inputs]) -> dict[str, Tensor]:
    """Losses of the batches, and the sum of their gradients by parameter."""
    found = {}
    for number, batch in enumerate(batches):
        loss = torch.stack([out.float().square().mean() for out in model(*batch)]).sum()
        loss.backward()
        found[f"loss {number}"] = loss.detach()
    found.update({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad(set_to_none=True)
    return found


def assert_same_bits(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [EQUAL, MIXED], ids=["equal", "mixed"])
def test_losses_and_gradients_have_the_same_bits(
    kind: tuple[list[tuple[int, ...]], list[int]], dtype: torch.dtype
) -> None:
    model = dit_without_zeros(0.1).to(dtype)
    # Several backward passes add up, as the tasks of a step do.
    batches = [inputs(kind, patch, dtype) for patch in TINY.patch_sizes]
    want = train(model, batches)
    assert sum(value.abs().sum() > 0 for value in want.values()) > 50
    for mode in get_args(Recompute):
        model.checkpoint_blocks(mode)
        assert_same_bits(train(model, batches), want)


def test_gradients_reach_blocks_whose_inputs_need_none() -> None:
    # As with adapters: the embedding, the condition and the caption's keys are constants.
    model = dit_without_zeros(0.1).requires_grad_(False)
    model.layers.requires_grad_(True)
    for block in model.layers:
        for name in ("wk_y", "wv_y", "ky_norm"):
            block.attention.get_submodule(name).requires_grad_(False)
        block.attention_y_norm.requires_grad_(False)
    batch = inputs(EQUAL, (1, 2, 2))
    want = train(model, [batch])
    assert "layers.0.attention.wq.weight" in want
    for mode in get_args(Recompute):
        model.checkpoint_blocks(mode)
        assert_same_bits(train(model, [batch]), want)


def kept_bytes(model: MultiScaleNextDiT, mode: Recompute, batch: Inputs) -> int:
    """Bytes that a forward pass leaves for its backward pass."""
    model.checkpoint_blocks(mode)
    with Storages() as storages:
        loss = torch.stack([out.float().square().mean() for out in model(*batch)]).sum()
    kept = storages.alive()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return kept


def test_less_memory_is_kept_for_the_backward_pass() -> None:
    model = dit_without_zeros(0.1, DEEPER)
    for kind in (EQUAL, MIXED):
        batch = inputs(kind, (1, 2, 2))
        none, per_op, attention, full = (kept_bytes(model, mode, batch) for mode in get_args(Recompute))
        assert per_op < 0.75 * none
        assert attention < 0.75 * per_op
        assert full < 0.9 * attention


def test_the_wide_results_of_adapters_are_not_kept() -> None:
    batch, targets, kept = inputs(EQUAL, (1, 2, 2)), ("wq", "wo", "w2"), []
    # Results 64 wide: 16 times as many as rank 4 sums up for each.
    for rank in (4, 5):
        model = dit_without_zeros(0.1)
        config = LoraConfig(rank=rank, targets=targets)
        add_adapters(model, config, torch.Generator().manual_seed(0))
        kept.append(kept_bytes(model, "per-op", batch))
    tokens = sum(latent[0].numel() // 4 for latent in batch[0])
    assert kept[1] - kept[0] > tokens * TINY.dim * 4 * len(targets) * TINY.n_layers


def test_nothing_is_kept_or_changed_without_gradients() -> None:
    model = dit_without_zeros(0.1)
    batch = inputs(EQUAL, (2, 2, 2))
    with torch.no_grad():
        want = model(*batch)
        for mode in get_args(Recompute):
            model.checkpoint_blocks(mode)
            assert all(map(torch.equal, model(*batch), want))


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name


def compiled(mode: Recompute, backend: str | Callable[..., Any]) -> MultiScaleNextDiT:
    torch._dynamo.reset()
    model = dit_without_zeros(0.1, DEEPER)
    model.checkpoint_blocks(mode)
    model.compile_blocks(backend)
    return model


@pytest.mark.parametrize("mode", ["per-op", "full"])
def test_compiled_blocks_share_one_recomputing_graph(mode: Recompute) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    model, plain = compiled(mode, counter), dit_without_zeros(0.1, DEEPER)
    few, more = (inputs(([(4, 2, 4, 8 * width)] * 3, [3 * width, 7, 9 + width]), (1, 2, 2)) for width in (3, 5))
    assert_close(train(model, [few]), train(plain, [few]))
    warm = counter.frame_count
    assert 1 <= warm < DEEPER.n_layers
    assert_close(train(model, [more]), train(plain, [more]))
    assert counter.frame_count == warm
    # What a compiled graph keeps comes by the saved tensors alone, and these can be counted.
    assert saved_bytes(model, more) < {"per-op": 0.75, "full": 0.3}[mode] * saved_bytes(plain, more)


def saved_bytes(model: MultiScaleNextDiT, batch: Inputs) -> int:
    """Bytes of the tensors that autograd saves, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(*batch)
    assert len(outputs) == len(batch[0])
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs g++")
def test_inductor_recomputes_too() -> None:
    batch = inputs(EQUAL, (1, 2, 2))
    assert_close(train(compiled("per-op", "inductor"), [batch]), train(dit_without_zeros(0.1, DEEPER), [batch]))
