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
