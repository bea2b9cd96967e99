"""Names of AudioLDM's original checkpoint, and what diffusers' AutoencoderKL and transformers' SpeechT5HifiGan have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PREFIX = "first_stage_model."
VOCODER_PREFIX = f"{PREFIX}vocoder."
SCALE = "scale_factor"
GROUPS = 32
"""Of the VAE's norms."""

UPSAMPLE_RATES = (5, 4, 2, 2, 2)
DILATIONS = ((1, 3, 5),) * 3
"""Of the published vocoder; shapes do not tell them, as they do the rest."""

_REPLACED = (
    (r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\bup\.(\d+)\.block\.", r"up_blocks.\1.resnets."),
    (r"\bup\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"\bmid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"\bmid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"\bnin_shortcut\b", "conv_shortcut"),
    (r"\bnorm_out\b", "conv_norm_out"),
)


def vae_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the VAE, without the prefix, by the names of AutoencoderKL."""
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    found = {}
    for name, value in tensors.items():
        new = name
        for pattern, by in _REPLACED:
            new = re.sub(pattern, by, new)
        # The decoder counts its levels from the fine end, and diffusers from the coarse one.
        new = re.sub(r"(?<=up_blocks\.)\d+", lambda level: str(levels - 1 - int(level[0])), new)
        found[new] = value[..., 0, 0] if ".attentions." in new and value.ndim == 4 else value
    return found


def vae_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of AutoencoderKL that the shapes tell; ValueError, naming the tensor, if one that tells is missing."""
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    if not levels:
        raise ValueError("there is no encoder.down.0")
    widths = [_shape(tensors, f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    return {
        "in_channels": _shape(tensors, "encoder.conv_in.weight")[1],
        "out_channels": _shape(tensors, "decoder.conv_out.weight")[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(widths),
        "layers_per_block": _count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _shape(tensors, "decoder.conv_in.weight")[1],
        "norm_num_groups": GROUPS,
    }


def vocoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the vocoder, without the prefix, by the names of SpeechT5HifiGan; weight norm is folded."""
    plain = dict(tensors)
    for name in tensors:
        if name.endswith(".weight_g"):
            stem = name.removesuffix("_g")
            if f"{stem}_v" in plain:
                plain[stem] = torch._weight_norm(plain.pop(f"{stem}_v"), plain.pop(name), 0)
    found = {re.sub(r"^ups\.", "upsampler.", name): value for name, value in plain.items()}
    if "conv_pre.weight" in found:
        # Statistics that AudioLDM's has not: they change nothing.
        bins = found["conv_pre.weight"].shape[1]
        found = {"mean": torch.zeros(bins), "scale": torch.ones(bins)} | found
    return found


def vocoder_config(
    tensors: Mapping[str, Tensor],
    rates: tuple[int, ...] = UPSAMPLE_RATES,
    dilations: tuple[tuple[int, ...], ...] = DILATIONS,
) -> dict[str, Any]:
    """Arguments of SpeechT5HifiGanConfig for what `vocoder_tensors` gave; ValueError as `vae_config`."""
    width, bins, _ = _shape(tensors, "conv_pre.weight")
    return {
        "model_in_dim": bins,
        "sampling_rate": 16_000,
        "upsample_initial_channel": width,
        "upsample_rates": list(rates),
        "upsample_kernel_sizes": [_shape(tensors, f"upsampler.{level}.weight")[2] for level in range(len(rates))],
        "resblock_kernel_sizes": [
            _shape(tensors, f"resblocks.{block}.convs1.0.weight")[2] for block in range(len(dilations))
        ],
        "resblock_dilation_sizes": [list(sizes) for sizes in dilations],
        "leaky_relu_slope": 0.1,
        "normalize_before": False,
    }


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in tensors or tensors[name].ndim < 3:
        raise ValueError(f"there is no {name}")
    return tensors[name].shape
