"""The operations of a video-to-audio model are those that torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lumina.video_to_audio import cost
from lumina.video_to_audio.networks.dit import VideoToAudioDiT
from tests.lumina.reference_numbers import draw
from tests.lumina.video_to_audio.networks.test_dit import TINY, filled, latents, media


@pytest.mark.parametrize(("patch", "grid"), [((1, 2), "uniform"), ((2, 2), "uniform"), ((1, 2), "time")])
def test_operations_are_those_that_torch_counts(patch: tuple[int, int], grid: str) -> None:
    config = TINY.model_copy(update={"patch": patch, "sync_grid": grid})
    one = media(0, sync_segments=2, words=3)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        filled(config)(latents(0)[None], torch.tensor([0.5]), [one])
    assert counted.get_total_flops() == cost.forward_cost(config, 24, 7, 3, 16)
    assert cost.training_cost(config, 24, 7, 3, 16) == 3 * counted.get_total_flops()


@pytest.mark.parametrize("patch", [(1, 2), (2, 4)])
@pytest.mark.parametrize("steps", [(96, 96), (96, 64)])
def test_what_is_kept_is_about_what_training_keeps(patch: tuple[int, int], steps: tuple[int, ...]) -> None:
    config = TINY.model_copy(update={"patch": patch, "n_layers": 4, "dim": 64, "latent_rows": 16})
    model = VideoToAudioDiT(config)
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    x = [draw(f"x{count}", config.in_channels, count, 16) for count in steps]
    known = [media(row, sync_segments=2, words=3) for row in range(len(x))]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = model(torch.stack(x) if len(set(steps)) == 1 else x, torch.rand(len(x)), known)
        sum(one.sum() for one in made)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
    measured = sum(size for place, size in kept.items() if place not in weights)
    # Two tensors of L D numbers are gradients on their way.
    tokens = sum(steps) // patch[0] * 16 // patch[1]
    counted = cost.activation_bytes(config, sum(steps) // len(steps), 10, len(steps), 4, "none") - 2 * 4 * 64 * tokens
    assert counted == pytest.approx(measured, rel=0.06)
