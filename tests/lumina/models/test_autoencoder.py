"""The VAE wrapper: shapes, the first-latent convention, scaling, batch independence, loading."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from lumina.models.autoencoder import VideoAutoencoder
from tests.lumina import tiny


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    return tiny.autoencoder()


def clips(batch: int, frames: int) -> Tensor:
    """Random frames."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, frames, 16, 24, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (17, 5)])
def test_encoded_sizes(vae: VideoAutoencoder, frames: int, latents: int) -> None:
    assert vae.encode(clips(1, frames)[0]).shape == (1, 16, latents, 2, 3)


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 8), (3, 12), (4, 16)])
def test_decoded_sizes(vae: VideoAutoencoder, latents: int, frames: int) -> None:
    decoded = vae.decode(torch.zeros(2, 16, latents, 2, 3))
    assert decoded.shape == (2, frames, 16, 24, 3)
    assert decoded.dtype == torch.uint8


def test_results_do_not_depend_on_the_batch(vae: VideoAutoencoder) -> None:
    frames = clips(3, 9)
    latents = vae.encode(frames)
    assert torch.equal(latents[1:2], vae.encode(frames[1]))
    assert torch.equal(vae.decode(latents)[1:2], vae.decode(latents[1:2]))


def test_latents_and_frames_are_those_of_the_plain_network(vae: VideoAutoencoder, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    plain = AutoencoderKLCogVideoX.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    frames = clips(1, 9)
    latents = vae.encode(frames)
    with torch.no_grad():
        want = plain.encode(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist.mode() * 0.7
        pixels = plain.decode(want[:, :, 1:] / 0.7).sample.permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(latents, want)
    shades = (pixels.clamp(-1, 1) + 1) * 127.5
    torch.testing.assert_close(vae.decode(latents[:, :, 1:]).float(), shades, atol=0.51, rtol=0)
    assert not latents.is_inference()


def test_pixels_are_normalised_in_float32(vae: VideoAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    half = copy.deepcopy(vae.vae).to(torch.bfloat16)
    seen: list[Tensor] = []
    monkeypatch.setattr(half, "encode", lambda pixels: seen.append(pixels) or vae.vae.encode(pixels.float()))
    shades = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    VideoAutoencoder(half).encode(shades)
    [pixels] = seen
    assert pixels.dtype == torch.bfloat16
    want = shades[..., 0].flatten() / 127.5 - 1
    assert torch.equal(pixels[0, 0].flatten(), want.to(torch.bfloat16))
    assert (pixels[0, 0].flatten().float() - want).abs().max() * 127.5 <= 0.25


def test_large_frames_go_through_in_tiles() -> None:
    vae = tiny.autoencoder()
    frames = torch.randint(0, 256, (1, 5, 256, 368, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = vae.encode(frames)
    pictures = vae.decode(whole)
    seen: list[tuple[int, ...]] = []
    for part in (vae.vae.encoder, vae.vae.decoder):
        part.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[2:])))
    vae.enable_tiling()
    latents = vae.encode(frames)
    assert seen == [(5, 240, 360), (5, 240, 80), (5, 56, 360), (5, 56, 80)]
    seen.clear()
    tiled = vae.decode(whole)
    assert seen == [(2, 30, 45), (2, 30, 10), (2, 7, 45), (2, 7, 10)]
    assert (latents.shape, tiled.shape) == (whole.shape, pictures.shape)
    assert not torch.equal(latents, whole)
    # Pixels far from the edges of a tile see what they saw in the whole frame.
    assert (tiled[..., :64, :64, :].float() - pictures[..., :64, :64, :].float()).abs().mean() < 5


@pytest.mark.parametrize(("height", "width"), [(704, 1248), (384, 672), (960, 960), (1280, 704), (248, 368), (32, 32)])
def test_tiles_make_frames_of_the_right_size(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny.autoencoder().vae
    VideoAutoencoder(vae).enable_tiling()

    def encoded(pixels: Tensor, conv_cache: None = None) -> tuple[Tensor, None]:
        return pixels.repeat(1, 11, 1, 1, 1)[:, :32, :, ::8, ::8], None

    def decoded(latents: Tensor, conv_cache: None = None) -> tuple[Tensor, None]:
        return latents[:, :3].repeat_interleave(8, 3).repeat_interleave(8, 4), None

    monkeypatch.setattr(vae.encoder, "forward", encoded)
    monkeypatch.setattr(vae.decoder, "forward", decoded)
    rows, columns = torch.meshgrid(torch.arange(height // 8), torch.arange(width // 8), indexing="ij")
    ramp = torch.stack([rows, columns, rows + columns]).float()[None, :, None] / 100
    pixels = ramp.repeat_interleave(8, 3).repeat_interleave(8, 4)
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mode()[:, :3], ramp)
    torch.testing.assert_close(vae.decode(ramp.repeat(1, 6, 1, 1, 1)[:, :16]).sample, pixels)


def test_an_odd_count_is_decoded_with_its_last_latent_twice(vae: VideoAutoencoder) -> None:
    latents = torch.randn(1, 16, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([latents, latents[:, :, -1:]], dim=2)
    assert torch.equal(vae.decode(latents), vae.decode(padded)[:, :12])


def test_the_released_recipe_encodes_32_frames_at_a_time(vae: VideoAutoencoder) -> None:
    frames = clips(1, 49)
    chunked = vae.encode(frames, "released-chunks/1")
    assert chunked.shape[2] == 8 + 5
    assert vae.encode(frames[:, :33], "released-chunks/1").shape[2] == 8 + 1
    torch.testing.assert_close(chunked[:, :, :8], vae.encode(frames[:, :33], "released-chunks/1")[:, :, :8])
    assert not torch.allclose(chunked, vae.encode(frames), atol=0.01)
    short = clips(1, 17)
    with torch.no_grad():
        [moments, _] = vae.vae.encoder(short.permute(0, 4, 1, 2, 3) / 127.5 - 1)
    torch.testing.assert_close(vae.encode(short, "released-chunks/1"), moments[:, :16] * 0.7)


def test_bad_inputs_are_named(vae: VideoAutoencoder) -> None:
    with pytest.raises(ValueError, match="4n \\+ 1 frames"):
        vae.encode(clips(1, 8))
    with pytest.raises(ValueError, match="uint8"):
        vae.encode(clips(1, 5).float())
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(clips(1, 5)[:, :, :12])
    with pytest.raises(ValueError, match=r"\[B, 16, F, h, w\]"):
        vae.decode(torch.zeros(16, 2, 2, 3))


def test_loading(vae: VideoAutoencoder, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "vae")
    loaded = VideoAutoencoder.from_pretrained(tmp_path / "vae")
    assert torch.equal(loaded.encode(clips(1, 5)), vae.encode(clips(1, 5)))
    with pytest.raises(FileNotFoundError, match="absent is no folder; give a path"):
        VideoAutoencoder.from_pretrained(tmp_path / "absent")
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        VideoAutoencoder.from_pretrained(tmp_path / "vae")
