"""The CogVideoX VAE: frames to scaled latents and back (8x in space, 4x in time, 16 channels).

A clip of 4n + 1 frames has n + 1 latents; the first one covers a single frame. As in the released model, videos are
trained and generated without that first latent, so F > 1 latents decode to 4F frames; a single latent is an image.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from lumina.models.config import EncodeRecipe
from lumina.pretrained import locate
from lumina.sizes import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, latent_frames

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

RELEASED_CHUNK = 32
TILE = 240, 360
"""Height and width in pixels of what tiling takes at once."""


class VideoAutoencoder:
    """Frames to latents and back; every clip is processed alone, so no result depends on its batch.

    Args:
        vae: the network, in evaluation mode.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        config = vae.config
        spatial, temporal = 2 ** (len(config.block_out_channels) - 1), config.temporal_compression_ratio
        if (spatial, temporal) != (SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION):
            raise ValueError(
                f"the VAE compresses {spatial}x in space and {temporal}x in time; "
                f"needed are {SPATIAL_COMPRESSION}x and {TEMPORAL_COMPRESSION}x"
            )
        use_onednn(vae)
        self.vae = vae
        self.latent_channels: int = config.latent_channels
        self.scaling_factor: float = config.scaling_factor

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Load a directory, or a model of the hub with its folder, e.g. "hf:THUDM/CogVideoX-2b/vae".

        Raises FileNotFoundError naming what is missing, ValueError if it is damaged, asks for code of its own, or the
        tensors are not those of its config.
        """
        from diffusers import AutoencoderKLCogVideoX

        place = locate(source, "a CogVideoX VAE", ("config.json", "*.safetensors"))
        with place.explained():
            vae, info = AutoencoderKLCogVideoX.from_pretrained(
                place.folder,
                local_files_only=True,
                torch_dtype=dtype,
                use_safetensors=True,
                # The cheaper way needs accelerate, and the network is small.
                low_cpu_mem_usage=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        place.check(vae.state_dict().keys(), info)
        return cls(vae.to(device).eval().requires_grad_(False))

    def save_pretrained(self, directory: Path) -> None:
        """Write config.json and safetensors weights."""
        self.vae.save_pretrained(directory, safe_serialization=True)

    def enable_tiling(self) -> None:
        """Encode and decode in overlapping tiles of 360x240 pixels: a few GB for frames of any size, and slightly other
        numbers. The recipe `released-chunks` encodes whole frames all the same."""
        tile(self.vae)

    def disable_tiling(self) -> None:
        """Encode and decode whole frames again."""
        self.vae.disable_tiling()

    @torch.no_grad()
    def encode(self, frames: Tensor, recipe: EncodeRecipe = "whole-clip/1") -> Tensor:
        """Encode clips to the posterior's mode times the scaling factor.

        Args:
            frames: uint8 [T, H, W, 3] or [B, T, H, W, 3]; T is 1 or 4n + 1, H and W are multiples of 8.
            recipe: see `EncodeRecipe`.

        Returns:
            [B, 16, T', H/8, W/8] with T' = 1 or n + 1, in the network's dtype.
        """
        clips = frames if frames.ndim == 5 else frames[None]
        if frames.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 [B, T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        latent_frames(clips.shape[1])
        if clips.shape[2] % SPATIAL_COMPRESSION or clips.shape[3] % SPATIAL_COMPRESSION:
            raise ValueError(f"height and width must be multiples of 8, got {clips.shape[2]} and {clips.shape[3]}")
        latents = []
        # Diffusers' own `device` and `dtype` go through all modules.
        weight = next(self.vae.parameters())
        for clip in clips:
            # Normalised before the cast: bfloat16 alone would be off by up to half a shade instead of a quarter.
            pixels = (clip.to(weight.device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1).to(weight.dtype)
            if recipe == "whole-clip/1":
                mean = self.vae.encode(pixels).latent_dist.mode()
            else:
                mean = self._encode_chunks(pixels)
            latents.append(mean * self.scaling_factor)
        return torch.cat(latents)

    def _encode_chunks(self, pixels: Tensor) -> Tensor:
        """Means [1, 16, T', h, w] of pixels [1, 3, T, H, W], by the recipe `released-chunks`."""
        parts, memory = [], None
        for chunk in pixels.split(RELEASED_CHUNK, dim=2):
            moments, memory = self.vae.encoder(chunk, conv_cache=memory)
            parts.append(moments if self.vae.quant_conv is None else self.vae.quant_conv(moments))
        return torch.cat(parts, dim=2).chunk(2, dim=1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents; see `decode_latents`."""
        return decode_latents(self.vae, latents)


@torch.no_grad()
def decode_latents(vae: AutoencoderKLCogVideoX, latents: Tensor) -> Tensor:
    """Decode scaled latents, one clip at a time.

    Args:
        vae: the network, with its scaling factor.
        latents: [B, 16, F, h, w]; for F > 1 the clip's first latent is absent.

    Returns:
        uint8 [B, T, 8h, 8w, 3] on the CPU, T = 4F, or 1 for F = 1.
    """
    channels, factor = vae.config.latent_channels, vae.config.scaling_factor
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise ValueError(f"latents must be [B, {channels}, F, h, w], got {list(latents.shape)}")
    frames = latents.shape[2]
    weight = next(vae.parameters())
    clips = []
    for latent in latents.split(1):
        scaled = latent.to(weight.device, weight.dtype) / factor
        if frames > 1 and frames % 2:
            # The network takes an odd count for one that starts with a single frame; an even one is whole.
            scaled = torch.cat([scaled, scaled[:, :, -1:]], dim=2)
        pixels = vae.decode(scaled).sample[0].permute(1, 2, 3, 0).float()
        shades = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        clips.append(shades[: 1 if frames == 1 else TEMPORAL_COMPRESSION * frames])
    return torch.stack(clips)


def tile(vae: AutoencoderKLCogVideoX) -> None:
    """Let the network take overlapping tiles of `TILE` pixels."""
    # Those of the released VAE, whose steps are whole latents; of other sizes diffusers makes frames too large.
    vae.enable_tiling(tile_sample_min_height=TILE[0], tile_sample_min_width=TILE[1])


def use_onednn(vae: nn.Module) -> None:
    """Let the network's 3-D convolutions run by oneDNN on a CPU; its frames depend on that in their last bits."""
    if torch.backends.mkldnn.is_available():
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                module._conv_forward = MethodType(_convolve, module)  # type: ignore[method-assign]


def _convolve(module: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`nn.Conv3d._conv_forward`, by oneDNN on the CPU.

    torch leaves small convolutions of a single item to a plain loop; the whole network is five times as fast so.
    """
    padding = module.padding
    if (
        not isinstance(padding, str)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and module.padding_mode == "zeros"
    ):
        return torch.mkldnn_convolution(x, weight, bias, padding, module.stride, module.dilation, module.groups)
    return nn.Conv3d._conv_forward(module, x, weight, bias)
