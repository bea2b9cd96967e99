"""The released networks on fake tensors: shapes, types and live bytes at 256, 512 and 960 pixels against `lumina.cost`.

No number is computed, so that clips of 86,400 tokens take a second. With all of its 24 blocks, and with the VAE's clips
of 96 frames, the ratios are those found here (28 November 2026); four blocks and 32 frames are quicker.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from torch.utils.flop_counter import FlopCounterMode

from lumina import cost, vae_cost
from lumina.flow_matching.sampler import guided_velocity
from lumina.models.attention import segments
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import RELEASED_MODELS, PatchSize, Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.rope import rotation
from tests.lumina.fullest import Fullest, fake

CONFIG = RELEASED_MODELS["2B_GQA"].model_copy(update={"n_layers": 4})
CPU = torch.device("cpu")
TEXT = 256
LATENTS = {256: (8, 32, 32), 512: (16, 64, 64), 960: (24, 120, 120)}
"""Of `paper.yaml`: 33 frames at 8 a second, 65 at 16 and 97 at 24, without the first latent."""
CLIPS = {256: 4, 512: 1, 960: 1}
"""In a micro-batch."""


def _tokens(size: cost.LatentSize, patch: PatchSize, clips: int) -> int:
    """Tokens of so many clips; their tables are made here, outside of what is fake."""
    grid = tuple(length // part for length, part in zip(size, patch, strict=True))
    rotation((grid[0], grid[1], grid[2]), CONFIG.rope_widths, CONFIG.rope_theta, CPU)
    segments((grid[0] * grid[1] * grid[2],) * clips, CPU)
    segments((TEXT,) * clips, CPU)
    return clips * grid[0] * grid[1] * grid[2]


@pytest.mark.parametrize("side", LATENTS)
@pytest.mark.parametrize("mode", cost.CHECKPOINTING)
def test_a_training_step_of_the_released_network(side: int, mode: Recompute, monkeypatch: pytest.MonkeyPatch) -> None:
    size, clips, patch = LATENTS[side], CLIPS[side], CONFIG.patch_sizes[0]
    tokens = _tokens(size, patch, clips)
    with fake(monkeypatch):
        model = MultiScaleNextDiT(CONFIG)
        model.checkpoint_blocks(mode)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        x, text = torch.empty(clips, 16, *size), [torch.empty(TEXT, CONFIG.cap_feat_dim)] * clips
        with Fullest() as live:
            velocity = model(x, torch.full((clips,), 0.5), text, torch.full((clips,), 2.0), patch)
            assert (velocity.shape, velocity.dtype) == (x.shape, torch.bfloat16)
            kept = live.now
            velocity.square().sum().backward()
        assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "layers" in name)
    assert cost.kept_bytes(CONFIG, tokens, clips * TEXT, 2, mode) == pytest.approx(kept, rel=0.03)
    assert cost.activation_bytes(CONFIG, tokens, clips * TEXT, 2, mode) == pytest.approx(live.most, rel=0.1)


@pytest.mark.parametrize("side", LATENTS)
def test_a_guided_sampling_step_of_the_released_network(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = LATENTS[side]
    sizes = {patch: _tokens(size, patch, 2) for patch in CONFIG.patch_sizes}
    with fake(monkeypatch), torch.no_grad():
        model = MultiScaleNextDiT(CONFIG)
        text = model.encode_text([torch.empty(TEXT, CONFIG.cap_feat_dim)] * 2)
        keys = sum(one.nbytes for one in (*text.keys, *text.values))
        x, t, motion = torch.empty(1, 16, *size), torch.tensor(0.5), torch.full((2,), 2.0)
        for patch, tokens in sizes.items():
            with Fullest() as live:
                velocity = guided_velocity(model, x, t, text, motion, patch, [4.0], norm_cap=2.0)
            assert (velocity.shape, velocity.dtype) == (x.shape, torch.float32)
            assert cost.evaluation_bytes(CONFIG, tokens, 2) == pytest.approx(live.most, rel=0.1)
    assert keys == cost.key_bytes(CONFIG, 0, 2 * TEXT, 2)


def _vae() -> VideoAutoencoder:
    """THUDM/CogVideoX-2b/vae, without its weights."""
    network = AutoencoderKLCogVideoX(
        block_out_channels=(128, 256, 256, 512),
        layers_per_block=3,
        latent_channels=16,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    )
    return VideoAutoencoder(network.eval().requires_grad_(False))


@pytest.mark.parametrize(
    ("width", "height", "frames", "tiled"),
    [(256, 256, 32, False), (672, 384, 16, False), (1248, 704, 16, False), (368, 256, 16, True), (960, 960, 1, False)],
)
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_the_released_vae(
    way: Literal["encode", "decode"], width: int, height: int, frames: int, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = 1 if frames == 1 else frames // 4 + (way == "encode")
    given = frames if frames == 1 or way == "decode" else frames + 1
    with fake(monkeypatch):
        vae = _vae()
        assert sum(parameter.numel() for parameter in vae.vae.parameters()) == vae_cost.VAE_PARAMETERS
        if tiled:
            vae.enable_tiling()
        with Fullest() as live, FlopCounterMode(display=False) as counter:
            if way == "encode":
                latent = vae.encode(torch.empty(given, height, width, 3, dtype=torch.uint8))
                assert (latent.shape, latent.dtype) == ((1, 16, latents, height // 8, width // 8), torch.bfloat16)
            else:
                pixels = vae.decode(torch.empty(1, 16, latents, height // 8, width // 8))
                assert (pixels.shape, pixels.dtype) == ((1, given, height, width, 3), torch.uint8)
    assert vae_cost.vae_bytes(way, width, height, given, 2, tiled) == pytest.approx(live.most, rel=0.1)
    counted = vae_cost.vae_flops(way, width, height, given, tiled)
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-3)
