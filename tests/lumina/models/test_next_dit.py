"""The transformer: equality with the released model, and independence of items, layout and calling form."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.models.config import RELEASED_MODELS
from lumina.models.next_dit import MultiScaleNextDiT
from tests.lumina import golden as fixtures
from tests.lumina.tiny import TINY, dit_without_zeros


@pytest.fixture(scope="module")
def tiny() -> MultiScaleNextDiT:
    return dit_without_zeros(0.1)


def items(shapes: list[tuple[int, ...]], lengths: list[int]) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor]:
    """Latents, times, text features and motion scores."""
    generator = torch.Generator().manual_seed(2)
    x = [torch.randn(shape, generator=generator) for shape in shapes]
    text = [torch.randn(length, TINY.cap_feat_dim, generator=generator) for length in lengths]
    motion = torch.tensor([-1.0, 0.0, 4.0, 2.0])[: len(x)]
    return x, torch.rand(len(x), generator=generator), text, motion


@pytest.mark.parametrize("patch", TINY.patch_sizes)
@pytest.mark.parametrize(
    ("shapes", "lengths"),
    [
        ([(4, 2, 8, 4), (4, 2, 8, 4), (4, 2, 8, 4)], [3, 7, 5]),
        ([(4, 2, 8, 4), (4, 1, 4, 8), (4, 4, 8, 8)], [3, 3, 5]),
        ([(4, 2, 8, 4), (4, 2, 4, 8)], [4, 4]),
    ],
)
def test_a_batch_equals_its_items_alone(
    tiny: MultiScaleNextDiT, patch: tuple[int, int, int], shapes: list[tuple[int, ...]], lengths: list[int]
) -> None:
    x, t, text, motion = items(shapes, lengths)
    together = tiny(x, t, text, motion, patch)
    for i, latent in enumerate(x):
        [alone] = tiny([latent], t[i : i + 1], text[i : i + 1], motion[i : i + 1], patch)
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-5)
        assert together[i].shape == latent.shape


def test_tensor_list_and_encoded_text_agree(tiny: MultiScaleNextDiT) -> None:
    x, t, text, motion = items([(4, 2, 8, 4)] * 3, [3, 7, 5])
    as_list = tiny(x, t, text, motion, (1, 2, 2))
    as_tensor = tiny(torch.stack(x), t, tiny.encode_text(text), motion, (1, 2, 2))
    assert torch.equal(torch.stack(as_list), as_tensor)


def test_a_model_used_for_inference_can_train_afterwards(tiny: MultiScaleNextDiT) -> None:
    x, t, text, motion = items([(4, 2, 12, 4)] * 2, [3, 9])
    with torch.inference_mode():
        tiny(x, t, text, motion, (1, 2, 2))
    tiny(torch.stack(x), t, text, motion, (1, 2, 2)).sum().backward()


def test_initial_weights_are_the_released_kind_and_reproducible() -> None:
    model = MultiScaleNextDiT(TINY, torch.Generator().manual_seed(3))
    again = MultiScaleNextDiT(TINY, torch.Generator().manual_seed(3))
    other = MultiScaleNextDiT(TINY, torch.Generator().manual_seed(4))
    state = model.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(state["layers.0.attention.wq.weight"], other.state_dict()["layers.0.attention.wq.weight"])
    zeros = {name for name, value in state.items() if not value.any()}
    assert {"layers.1.adaLN_modulation.1.weight", "all_final_layer.4-2.linear.weight", "cap_embedder.1.weight"} <= zeros
    assert {"motion_embedder.mlp.2.weight", "layers.0.attention.gate"} <= zeros
    assert not {"t_embedder.mlp.2.weight", "all_x_embedder.2-2.weight", "pad_token"} & zeros
    x, t, text, motion = items([(4, 2, 8, 4)], [3])
    assert not model(x, t, text, motion, (1, 2, 2))[0].any()


@pytest.mark.parametrize(
    ("shape", "length", "message"),
    [((4, 3, 8, 8), 1, "not a multiple"), ((3, 2, 8, 8), 1, r"\[4, F, H, W\]"), ((4, 2, 8, 8), 2, "1 latents but 2")],
)
def test_bad_inputs_are_named(tiny: MultiScaleNextDiT, shape: tuple[int, ...], length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny([torch.zeros(shape)], torch.zeros(1), [torch.zeros(2, 24)] * length, torch.zeros(1), (2, 4, 4))


def latents(arrays: dict[str, Tensor], case: str, name: str, definition: dict[str, Any]) -> list[Tensor]:
    """One list of latents of a fixture case."""
    if definition["kind"] == "tensor":
        return list(arrays[f"{case}.{name}"].unbind(0))
    return [arrays[f"{case}.{name}.{i}"] for i in range(definition["n_items"])]


@pytest.mark.parametrize("stem", ["A_dit_main", "A_dit_eps", "A_dit_alt", "A_dit_wide"])
def test_released_numbers(golden: Path, stem: str) -> None:
    arrays, definitions = fixtures.read(golden, stem)
    model = fixtures.model(golden, definitions)
    for case, definition in definitions["cases"].items():
        x = latents(arrays, case, "x", definition)
        text = fixtures.unpadded(arrays[f"{case}.cap_feats"], arrays[f"{case}.cap_mask"])
        t, motion, patch = arrays[f"{case}.t"], arrays[f"{case}.motion"], fixtures.freeze(definition["patch"])
        out = model(x, t, text, motion, patch)
        wanted = latents(arrays, case, "out", definition)
        for got, want in zip(out, wanted, strict=True):
            fixtures.assert_close(f"{stem}/{case}", got, want)
        if "grad_order" in definition:
            check_gradients(model, out, arrays, case, definition)
        if definition["bf16"]:
            half = model.to(torch.bfloat16)
            x16, text16 = [item.bfloat16() for item in x], [item.bfloat16() for item in text]
            with torch.no_grad():
                out16 = half(x16, t.bfloat16(), text16, motion.bfloat16(), patch)
            official = latents(arrays, case, "out_bf16", definition)
            for got, want, exact in zip(out16, official, wanted, strict=True):
                fixtures.assert_close(f"{stem}/{case}/bf16", got, want, "bf16")
                assert fixtures.relative_error(got, exact) <= 1.5 * fixtures.relative_error(want, exact)
            model = fixtures.model(golden, definitions)


def check_gradients(
    model: MultiScaleNextDiT, out: list[Tensor], arrays: dict[str, Tensor], case: str, definition: dict[str, Any]
) -> None:
    """Compare all gradients of the fixture's loss."""
    model.zero_grad(set_to_none=True)
    loss = torch.stack([(got - arrays[f"{case}.grad_target.{i}"]).square().mean() for i, got in enumerate(out)]).sum()
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for name in definition["grad_full"]:
        fixtures.assert_close(f"{case}/{name}", gradients[name], arrays[f"{case}.grad[{name}]"], "grad")
    order = definition["grad_order"]
    norms = torch.stack([gradients[name].double().norm() for name in order])
    fixtures.assert_close(f"{case}/norms", norms, arrays[f"{case}.grad_l2"], "sum")
    products = torch.stack([(gradients[name].double() * parameters[name].detach().double()).sum() for name in order])
    fixtures.assert_close(f"{case}/products", products, arrays[f"{case}.grad_dot_w"], "sum")
    assert not set(definition["grad_none"]) & set(gradients)


def test_full_size_parameter_names(golden: Path) -> None:
    definitions = json.loads((golden / "H_manifest_2B.json").read_text())["models"]
    for name, count in {"2B_GQA": 1_771_364_672, "2B": 2_026_279_232}.items():
        with torch.device("meta"):
            model = MultiScaleNextDiT(RELEASED_MODELS[name])
        want = {key: shape for key, shape, _ in definitions[f"MultiScaleNextDiT_{name}"]["manifest"]}
        assert {key: list(value.shape) for key, value in model.state_dict().items()} == want
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_compiled_blocks_serve_any_number_of_tokens(tiny: MultiScaleNextDiT) -> None:
    compiled = copy.deepcopy(tiny)
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compiled.compile_blocks(backend=count)

    def check(frames: int, rows: int, lengths: list[int]) -> None:
        x, t, text, motion = items([(4, frames, rows, 8)] * 3, lengths)
        with torch.no_grad():
            for got, want in zip(
                compiled(x, t, text, motion, (1, 2, 2)), tiny(x, t, text, motion, (1, 2, 2)), strict=True
            ):
                torch.testing.assert_close(got, want)

    check(2, 4, [3, 7, 5])
    check(4, 8, [5, 9, 2])
    warm = len(graphs)
    assert warm > 0
    for frames, rows, lengths in ((2, 8, [4, 6, 11]), (6, 4, [12, 3, 8]), (4, 12, [9, 2, 7])):
        check(frames, rows, lengths)
    assert len(graphs) == warm
