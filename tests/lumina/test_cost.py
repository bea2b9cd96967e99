"""Costs: the paper's table, and counts that agree with what torch counts."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lumina import cost
from lumina.flow_matching.schedules import PRESETS
from lumina.models.config import RELEASED_MODELS, Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.muon import orthogonal
from lumina.training.stage import LoraConfig
from tests.lumina.tiny import TINY, dit_without_zeros

RELEASED = RELEASED_MODELS["2B_GQA"]
LATENT = (16, 48, 84)  # 64 frames of 672 x 384
TEXT = 256


def test_table_2_of_the_paper() -> None:
    flops = [cost.forward_cost(RELEASED, LATENT, patch, TEXT).flops for patch in RELEASED.patch_sizes]
    assert [value / flops[0] for value in flops] == pytest.approx([1.0, 0.36, 0.07], abs=0.02)
    single, combined = (
        cost.sampling_cost(RELEASED, LATENT, PRESETS[name], TEXT, TEXT)
        for name in ("f16F64R512", "f16F64R512-MultiScale")
    )
    assert combined.flops / single.flops == pytest.approx(0.34, abs=0.02)
    # 59 of the 69 steps are guided and take two evaluations; 28, 26 and 15 are at each scale.
    assert sum(single.evaluations.values()) == sum(combined.evaluations.values()) == 69 + 59
    assert combined.evaluations == {(2, 4, 4): 56, (2, 2, 2): 52, (1, 2, 2): 20}


def test_the_released_model_has_its_parameters() -> None:
    assert cost.parameters(RELEASED) == 1_771_364_672
    assert cost.parameters(RELEASED_MODELS["2B"]) == 2_026_279_232


@pytest.mark.parametrize("patch", TINY.patch_sizes)
def test_operations_are_those_that_torch_counts(patch: tuple[int, int, int]) -> None:
    model, size, length = dit_without_zeros(0.1), (4, 8, 12), 7
    x = torch.randn(1, TINY.in_channels, *size, generator=torch.Generator().manual_seed(0))
    text = [torch.ones(length, TINY.cap_feat_dim)]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as encoding:
            condition = model.encode_text(text)
        with FlopCounterMode(display=False) as evaluation:
            model(x, torch.tensor([0.5]), condition, torch.tensor([2.0]), patch)
    counted = cost.forward_cost(TINY, size, patch, length)
    # The caption's vector is made with the text.
    pooled = 2 * TINY.cap_feat_dim * TINY.condition_dim
    assert encoding.get_total_flops() == cost.text_cost(TINY, length) + pooled
    assert evaluation.get_total_flops() == counted.flops - pooled


def _latents(frames: int, items: int, unlike: bool) -> list[torch.Tensor]:
    sizes = [(8, 8), (4, 12)] if unlike else [(8, 8)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(TINY.in_channels, frames, *sizes[n % len(sizes)], generator=generator) for n in range(items)]


def _run(model: MultiScaleNextDiT, x: list[torch.Tensor], text_tokens: int) -> torch.Tensor:
    items, text = len(x), [torch.ones(text_tokens, TINY.cap_feat_dim)] * len(x)
    out = model(x, torch.full((items,), 0.5), text, torch.full((items,), 2.0), TINY.patch_sizes[0])
    return torch.stack([velocity.square().sum() for velocity in out]).sum()


@pytest.mark.parametrize(("frames", "items", "text_tokens"), [(6, 1, 2), (32, 1, 2), (1, 8, 40), (16, 4, 9)])
def test_what_is_kept_is_about_what_training_keeps(frames: int, items: int, text_tokens: int) -> None:
    model, x = dit_without_zeros(0.1), _latents(frames, items, unlike=False)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _run(model, x, text_tokens)
    measured = sum(size for place, size in kept.items() if place not in weights)
    tokens = sum(latent[0].numel() // 4 for latent in x)
    # Vectors per item, which are left out, weigh most in small items.
    assert cost.kept_bytes(TINY, tokens, items * text_tokens, 4) == pytest.approx(measured, rel=0.06)


class Fullest(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, while any of them lives."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.most = max(self.most, sum(self.alive.values()))
        return out


def _fullest(mode: Recompute, frames: int, unlike: bool) -> tuple[int, int]:
    """Tokens, and the most bytes at once in a forward and backward pass over them."""
    model, x = dit_without_zeros(0.1), _latents(frames, 4, unlike)
    model.checkpoint_blocks(mode)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    _run(model, x, 2)  # what is made once, such as rotations
    with Fullest() as fullest:
        _run(model, x, 2).backward()
    return sum(latent[0].numel() // 4 for latent in x), fullest.most


@pytest.mark.parametrize("mode", cost.CHECKPOINTING)
@pytest.mark.parametrize("unlike", [False, True])
def test_activations_are_about_what_training_has_at_once(mode: Recompute, unlike: bool) -> None:
    (few, less), (many, more) = (_fullest(mode, frames, unlike) for frames in (8, 24))
    # Per token: gradients of weights are there as well, whatever the number of tokens.
    counted = cost.activation_bytes(TINY, many - few, 0, 4, mode, unlike=unlike)
    assert counted == pytest.approx(more - less, rel=0.15)


def test_recomputation_costs_operations_and_saves_bytes() -> None:
    size, patch, lora = (24, 60, 60), (1, 2, 2), LoraConfig()
    tokens = cost.forward_cost(RELEASED, size, patch, TEXT).tokens
    none, per_op, attention, full = (
        cost.activation_bytes(RELEASED, tokens, TEXT, 2, mode) for mode in cost.CHECKPOINTING
    )
    assert none > 2 * per_op > 4 * attention > 5 * full
    flops = [cost.training_cost(RELEASED, size, patch, TEXT, mode) for mode in cost.CHECKPOINTING]
    assert flops[0] == flops[1]
    assert flops[3] / flops[0] == pytest.approx(4 / 3, rel=0.001)
    assert flops[0] < flops[2] < flops[3]
    # No weight but the adapters' has a gradient; attention, most of this clip's work, is as dear as ever.
    adapters = [cost.training_cost(RELEASED, size, patch, TEXT, mode, lora) for mode in cost.CHECKPOINTING]
    assert 0.8 < adapters[0] / flops[0] < 1
    assert adapters[0] == adapters[1] < adapters[2] < adapters[3] < flops[3]
    assert flops[0] < adapters[3]


def test_keeping_attention_at_960_pixels() -> None:
    size, patch = (24, 90, 160), (1, 2, 2)
    tokens = cost.forward_cost(RELEASED, size, patch, TEXT).tokens
    assert tokens == 86_400
    attention, full = (cost.kept_bytes(RELEASED, tokens, TEXT, 2, mode) for mode in ("attention", "full"))
    assert (attention - full) / 1e9 == pytest.approx(19.2, abs=0.1)
    flops = [cost.training_cost(RELEASED, size, patch, TEXT, mode) for mode in ("attention", "full")]
    assert 1 - flops[0] / flops[1] == pytest.approx(0.218, abs=0.001)


class Operations(TorchDispatchMode):
    """Counts the calls of fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        self.attention += name.startswith("aten::_scaled_dot_product_") and "backward" not in name
        return func(*args, **(kwargs or {}))


def test_what_is_computed_again_is_what_is_counted() -> None:
    x, size, patch, calls = _latents(4, 1, unlike=False), (4, 8, 8), TINY.patch_sizes[0], 2 * TINY.n_layers
    products: dict[Recompute, int] = {}
    for mode, again in (("none", 0), ("per-op", 0), ("attention", 0), ("full", calls)):
        model = dit_without_zeros(0.1)
        model.checkpoint_blocks(mode)
        with FlopCounterMode(display=False) as counter, Operations() as operations:
            _run(model, x, 7).backward()
        products[mode] = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
        assert operations.attention == calls + again, mode
    counted = {mode: cost.training_cost(TINY, size, patch, 7, mode) for mode in cost.CHECKPOINTING}
    for mode in ("per-op", "attention"):
        assert products[mode] - products["none"] == counted[mode] - counted["none"], mode
    assert products["full"] == products["attention"]


def test_training_operations_are_those_that_torch_counts() -> None:
    model, x = dit_without_zeros(0.1), _latents(4, 1, unlike=False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _run(model, x, 7).backward()
    # Nothing asks for the gradient of latents, texts and sinusoids, which is most of what differs.
    counted = cost.training_cost(TINY, (4, 8, 8), TINY.patch_sizes[0], 7)
    assert counter.get_total_flops() == pytest.approx(counted, rel=0.04)


def test_adapters_are_two_thin_matrices_beside_each_target() -> None:
    lora = LoraConfig(rank=3, targets=("wq", "wk", "w2"))
    d, k, m = TINY.dim, 2 * TINY.head_dim, TINY.ffn_dim
    assert cost.adapter_parameters(TINY, lora) == TINY.n_layers * 3 * ((d + d) + (d + k) + (m + d))


def test_operations_of_muon_are_those_that_torch_counts() -> None:
    blocks = [one for name, one in MultiScaleNextDiT(TINY).named_parameters() if "layers." in name and one.ndim == 2]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for one in blocks:
            orthogonal(one)
    assert cost.muon_flops(TINY) == counter.get_total_flops() > 0
    lora = LoraConfig(rank=3, targets=("wk", "w2"))
    d, k, m = TINY.dim, 2 * TINY.head_dim, TINY.ffn_dim
    with FlopCounterMode(display=False) as counter:
        for shape in ((3, d), (k, 3), (3, m), (d, 3)):
            orthogonal(torch.randn(shape))
    assert cost.muon_flops(TINY, lora) == TINY.n_layers * counter.get_total_flops()


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        cost.forward_cost(TINY, (3, 8, 8), (2, 2, 2), TEXT)
    with pytest.raises(ValueError, match="no patch size"):
        cost.forward_cost(TINY, (4, 8, 8), (1, 1, 1), TEXT)
    assert cost.forward_cost(TINY, (1, 8, 8), (2, 2, 2), TEXT).tokens == 16
