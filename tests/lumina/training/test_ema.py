"""The averaged weights against the formula."""

from __future__ import annotations

import pytest
import torch

from lumina.training.ema import Ema


@pytest.mark.parametrize("warmup", [False, True])
def test_average(warmup: bool) -> None:
    weights = [torch.zeros(3), torch.zeros(2)]
    ema = Ema(weights, decay=0.9, warmup=warmup)
    expected = 0.0
    for number in range(200):
        for weight in weights:
            weight += 1.0
        ema.update(weights, number)
        decay = min(0.9, (1 + number) / (10 + number)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * (number + 1)
    torch.testing.assert_close(ema.shards, [torch.full((3,), expected), torch.full((2,), expected)])


def test_swapping_gives_the_weights_back() -> None:
    weights = [torch.ones(2)]
    ema = Ema(weights, decay=0.5, warmup=False)
    weights[0].fill_(3.0)
    with ema.swapped_into(weights):
        assert weights[0].tolist() == [1.0, 1.0]
    assert weights[0].tolist() == [3.0, 3.0]
