"""What the initial weights let the network hear."""

from __future__ import annotations

import pytest
import torch

from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.weights.initialisation import condition_from_the_start
from tests.lumina.tiny import TINY


def _with_output(conditioned: bool) -> MultiScaleNextDiT:
    """A new network whose final layers, zero in both initialisations, are given weights."""
    rng = torch.Generator().manual_seed(1)
    model = MultiScaleNextDiT(TINY, rng)
    if conditioned:
        condition_from_the_start(model, rng)
    with torch.no_grad():
        for layer in model.all_final_layer.values():
            torch.nn.init.xavier_uniform_(layer.linear.weight, generator=rng)
    return model.eval()


@pytest.mark.parametrize("patch", TINY.patch_sizes)
def test_the_caption_is_heard_from_the_first_step(patch: tuple[int, int, int]) -> None:
    rng = torch.Generator().manual_seed(2)
    # The same noise everywhere: what differs between tokens is what the network knows of their places.
    x = torch.randn(1, 4, 1, 1, 1, generator=rng).expand(1, 4, 4, 8, 8)
    captions = [torch.randn(5, 24, generator=rng), torch.randn(7, 24, generator=rng)]
    t, motion = torch.full((1,), 0.1), torch.full((1,), -1.0)
    for conditioned in (False, True):
        model = _with_output(conditioned)
        first, second = (model(x, t, [caption], motion, patch) for caption in captions)
        frames, rows, columns = patch
        corners = first[..., :frames, :rows, :columns] - first[..., -frames:, -rows:, -columns:]
        assert bool((first - second).abs().mean() > 0.05) == conditioned
        assert bool(corners.abs().mean() > 1e-3) == conditioned


def test_it_is_reproducible() -> None:
    first, second = _with_output(True).state_dict(), _with_output(True).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
