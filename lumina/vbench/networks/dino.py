"""DINO ViT-B/16 (Caron et al. 2021, arXiv 2104.14294): the class token of each frame, for subject consistency.

Frames keep their shape, so the positions are interpolated: as DINO does it, which `transformers` does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina.pretrained import Place, locate
from lumina.vbench.networks import preprocess, weights

_NETWORK = "DINO ViT-B/16"
_INSTEAD = "dino_vitbase16_pretrain.pth, or the directory of facebook/dino-vitb16"
_PATCH, _GRID = 16, 14
_EPS = 1e-6
"""Of the layer norms; the hub's config says 1e-12."""
_ENDS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


@dataclass(frozen=True)
class DinoConfig:
    """Size of the network; the published one by default."""

    width: int = 768
    depth: int = 12
    heads: int = 12


@dataclass(frozen=True)
class Dino:
    """The network, and the digest of its weights."""

    model: Any
    digest: str

    @torch.no_grad()
    def features(self, frames: preprocess.Frames, batch: int = 16) -> Tensor:
        """Class tokens after the last norm, float32 [T, D] on the CPU, of frames uint8 [T, H, W, 3].

        Only `batch` frames are floats at a time.
        """
        preprocess.check(frames)
        parameter = next(self.model.parameters())
        found = []
        for start in range(0, len(frames), batch):
            x = preprocess.dino(frames[start : start + batch], parameter.device).to(parameter.dtype)
            found.append(self.model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0].float().cpu())
        return torch.cat(found)


def load_dino(
    source: str | Path,
    config: DinoConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Dino:
    """Load dino_vitbase16_pretrain.pth (its published names), or the directory of facebook/dino-vitb16.

    `config` counts for a file alone. Raises FileNotFoundError if there is nothing, ValueError if it is damaged or the
    weights are another network's.
    """
    from transformers import ViTConfig, ViTModel

    if Path(source).is_dir():
        place = locate(source, _NETWORK, ("config.json", "model*.safetensors"))
        with place.explained():
            settings = ViTConfig.from_pretrained(place.folder)
        settings.layer_norm_eps = _EPS
        _check_patches(settings, place)
        tensors = weights.read_folder(place)
        digest = weights.digest(tensors)
    else:
        size = config or DinoConfig()
        published = weights.fit(weights.read_file(source, _NETWORK, _INSTEAD), _shapes(size), source, _NETWORK)
        digest = weights.digest(published)
        place, tensors = Place(Path(source), _NETWORK), weights.vit_to_hub(published, _ENDS)
        settings = ViTConfig(
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            layer_norm_eps=_EPS,
        )
    model = weights.build(ViTModel, settings, tensors, place, add_pooling_layer=False)
    model.embeddings.interpolate_pos_encoding = partial(_positions, model.embeddings)
    return Dino(model.to(device, dtype), digest)


def _shapes(config: DinoConfig) -> dict[str, list[int]]:
    width = config.width
    shapes = weights.vit_shapes(width, config.depth, (_PATCH, _PATCH), 1 + _GRID**2)
    shapes |= {f"blocks.{number}.attn.qkv.bias": [3 * width] for number in range(config.depth)}
    return shapes | {"cls_token": [1, 1, width], "norm.weight": [width], "norm.bias": [width]}


def _check_patches(settings: Any, place: Place) -> None:
    if (settings.patch_size, settings.image_size) != (_PATCH, _PATCH * _GRID):
        raise ValueError(
            f"{place.folder} holds a ViT for {settings.image_size} pixels in patches of {settings.patch_size}; "
            f"{_NETWORK} has {_PATCH * _GRID} and {_PATCH}: give {_INSTEAD}"
        )


def _positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """Positions [1, 1 + h w, D] for images of height x width, in place of `ViTEmbeddings.interpolate_pos_encoding`.

    DINO scales by (h + 0.1) / 14, and samples by that too: 14 patches in a side of 227 pixels are not the stored ones.
    """
    stored: Tensor = embeddings.position_embeddings
    if height == width == _PATCH * _GRID:
        return stored
    grid = stored[:, 1:].float().unflatten(1, (_GRID, _GRID)).permute(0, 3, 1, 2)
    scale = [(side // _PATCH + 0.1) / _GRID for side in (height, width)]
    positions = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    if math.prod(positions.shape[2:]) != tokens.shape[1] - 1:
        raise AssertionError(f"{tuple(positions.shape)} positions for {tokens.shape[1] - 1} patches")
    return torch.cat([stored[:, :1], positions.flatten(2).transpose(1, 2).to(stored.dtype)], dim=1)
