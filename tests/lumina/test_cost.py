"""Costs: the paper's table, and counts that agree with what torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lumina import cost
from lumina.flow_matching.schedules import PRESETS
from lumina.models.config import RELEASED_MODELS
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


@pytest.mark.parametrize("size", [(4, 8, 12), (8, 16, 16)])
def test_activations_are_about_those_that_training_keeps(size: tuple[int, int, int]) -> None:
    model, patch = dit_without_zeros(0.1), TINY.patch_sizes[0]
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    x = torch.randn(1, TINY.in_channels, *size, generator=torch.Generator().manual_seed(0))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x, torch.tensor([0.5]), [torch.ones(2, TINY.cap_feat_dim)], torch.tensor([2.0]), patch)
    measured = sum(size for place, size in kept.items() if place not in weights)
    tokens = cost.forward_cost(TINY, size, patch, 2).tokens
    assert out.shape == x.shape
    assert cost.activation_bytes(TINY, tokens, 4, training=True) == pytest.approx(measured, rel=0.03)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        cost.forward_cost(TINY, (3, 8, 8), (2, 2, 2), TEXT)
    with pytest.raises(ValueError, match="no patch size"):
        cost.forward_cost(TINY, (4, 8, 8), (1, 1, 1), TEXT)
    assert cost.forward_cost(TINY, (1, 8, 8), (2, 2, 2), TEXT).tokens == 16
