"""Rotary positions: the released table, and rotation as a relative encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._functorch.aot_autograd import aot_module_simplified

from lumina.models.config import RELEASED_MODELS, NextDiTConfig
from lumina.models.rope import axis_turns, rotate, rotation
from tests.lumina import golden as fixtures

CPU = torch.device("cpu")
WIDTHS = (8, 12, 12)


def test_released_table(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "A_dit_main")
    config = definitions["cfg"]
    widths = NextDiTConfig(dim=config["dim"], n_layers=1, n_heads=config["n_heads"], cap_feat_dim=1).rope_widths
    turn = rotation((4, 5, 6), widths, config["rope_theta"], CPU).view(4, 5, 6, -1, 2)
    fixtures.assert_close("cos", turn[..., 0], arrays["rope.box_cos"], "table")
    fixtures.assert_close("sin", turn[..., 1], arrays["rope.box_sin"], "table")
    places = zip((63, 127, 127), widths, strict=True)
    far = torch.cat([axis_turns(torch.tensor([at]), width, config["rope_theta"])[0] for at, width in places])
    fixtures.assert_close("far", far[:, 0], arrays["rope.far_cos"].flatten(), "table")


def test_only_distances_matter() -> None:
    assert RELEASED_MODELS["2B"].rope_widths == (36, 54, 54)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 32, generator=generator).unbind(0)
    turn = rotation((3, 4, 5), WIDTHS, 256.0, CPU).view(3, 4, 5, 1, 16, 2)

    def product(a: tuple[int, int, int], b: tuple[int, int, int]) -> torch.Tensor:
        return (rotate(q[None], turn[a][None]) * rotate(k[None], turn[b][None])).sum()

    torch.testing.assert_close(product((0, 1, 2), (1, 3, 2)), product((1, 0, 4), (2, 2, 4)), rtol=1e-4, atol=1e-5)


def test_every_token_has_the_angles_of_its_frame_row_and_column() -> None:
    turn = rotation((2, 3, 4), WIDTHS, 9.0, CPU).view(2, 3, 4, 16, 2)
    place = (1, 2, 3)
    angle = torch.cat([at * 9.0 ** (-torch.arange(0, w, 2) / w) for at, w in zip(place, WIDTHS, strict=True)])
    torch.testing.assert_close(turn[place], torch.stack([angle.cos(), angle.sin()], -1))


def test_a_pair_of_channels_turns_by_its_angle() -> None:
    x = torch.tensor([[[3.0, 4.0, 1.0, 0.0]]])
    quarter_and_eighth = torch.tensor([[[[0.0, 1.0], [0.5**0.5, 0.5**0.5]]]])
    torch.testing.assert_close(rotate(x, quarter_and_eighth), torch.tensor([[[-4.0, 3.0, 0.5**0.5, 0.5**0.5]]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_in_real_numbers_with_the_same_bits(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    kinds: set[torch.dtype] = set()

    def seen(graph: Any, _inputs: Any) -> Any:
        kinds.update(node.meta["val"].dtype for node in graph.graph.nodes if isinstance(node.meta.get("val"), Tensor))
        return make_boxed_func(graph)

    def backend(graph: Any, inputs: Any) -> Any:
        return aot_module_simplified(graph, inputs, fw_compiler=seen, bw_compiler=seen)

    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 60, 2, 32, generator=generator).to(dtype)
    turn = rotation((3, 4, 5), WIDTHS, 256.0, CPU)
    found = []
    for function in (rotate, torch.compile(rotate, backend=backend, dynamic=True)):
        leaf = x.clone().requires_grad_()
        out = function(leaf, turn)
        out.backward(weight)
        found.append((out, leaf.grad))
    for plain, compiled in zip(*found, strict=True):
        assert torch.equal(plain, compiled)
    assert dtype in kinds
    assert not any(kind.is_complex for kind in kinds)
