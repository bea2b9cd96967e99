"""Rotary positions: the released table, and rotation as a relative encoding."""

from __future__ import annotations

from pathlib import Path

import torch

from lumina.models.rope import angles, axis_widths, rotate, rotation
from tests.lumina import golden as fixtures

CPU = torch.device("cpu")


def test_released_table(golden: Path) -> None:
    arrays, definitions = fixtures.read(golden, "A_dit_main")
    config = definitions["cfg"]
    head_dim = config["dim"] // config["n_heads"]
    turn = rotation((4, 5, 6), head_dim, config["rope_theta"], CPU).view(4, 5, 6, -1)
    fixtures.assert_close("cos", turn.real, arrays["rope.box_cos"], "table")
    fixtures.assert_close("sin", turn.imag, arrays["rope.box_sin"], "table")
    far = angles(torch.tensor([[63, 127, 127]]), head_dim, config["rope_theta"])[0]
    fixtures.assert_close("far", far.cos().float(), arrays["rope.far_cos"].flatten(), "table")


def test_only_distances_matter() -> None:
    assert axis_widths(144) == (36, 54, 54)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 32, generator=generator).unbind(0)
    turn = rotation((3, 4, 5), 32, 256.0, CPU).view(3, 4, 5, 1, 16)

    def product(a: tuple[int, int, int], b: tuple[int, int, int]) -> torch.Tensor:
        return (rotate(q[None], turn[a][None]) * rotate(k[None], turn[b][None])).sum()

    torch.testing.assert_close(product((0, 1, 2), (1, 3, 2)), product((1, 0, 4), (2, 2, 4)), rtol=1e-4, atol=1e-5)
