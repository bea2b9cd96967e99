"""The operations of a video-to-audio model are those that torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lumina.video_to_audio import cost
from tests.lumina.video_to_audio.networks.test_dit import TINY, filled, latents, media


@pytest.mark.parametrize(("patch", "grid"), [((1, 2), "uniform"), ((2, 2), "uniform"), ((1, 2), "time")])
def test_operations_are_those_that_torch_counts(patch: tuple[int, int], grid: str) -> None:
    config = TINY.model_copy(update={"patch": patch, "sync_grid": grid})
    one = media(0, sync_segments=2, words=3)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        filled(config)(latents(0)[None], torch.tensor([0.5]), [one])
    assert counted.get_total_flops() == cost.forward_cost(config, 24, 7, 3, 16)
    assert cost.training_cost(config, 24, 7, 3, 16) == 3 * counted.get_total_flops()
