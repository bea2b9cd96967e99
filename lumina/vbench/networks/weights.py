"""Pretrained weights of published networks: read as data, held against each network's names, and digested.

What a file is missing, or has beyond the network, is an error: transformers would draw it at random, or leave it out.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina import weights_digest
from lumina.pretrained import Place
from lumina.tensor_files import check_shapes, read_tensors
from lumina.tensor_names import unwrapped

Shapes = Mapping[str, list[int]]

_VIT_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Parts of a transformer block: as timm names them, and as the files of the hub do."""


def read_file(path: str | Path, network: str, instead: str = "the published file") -> dict[str, Tensor]:
    """Tensors of a torch or `.safetensors` file by name.

    Raises FileNotFoundError if there is none, ValueError if it is damaged, holds more than tensors, or is an archive
    of TorchScript, which is a program: `instead` says what to take.
    """
    return read_entry(path, "module", network, instead)


def read_entry(path: str | Path, entry: str, network: str, instead: str) -> dict[str, Tensor]:
    """As `read_file`, of a torch file that may hold the tensors under `entry` instead of at its top."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights of {network} at {path}: give {instead}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(Path(name).name == "constants.pkl" for name in archive.namelist()):
                raise ValueError(f"{path} is a TorchScript archive, a program, which is never run: give {instead}")
    return read_tensors(path, entry)


def fit(tensors: Mapping[str, Tensor], wanted: Shapes, path: str | Path, network: str) -> dict[str, Tensor]:
    """The tensors without prefixes of wrappers, once names and shapes are those of `network`; ValueError if not."""
    found = plain(tensors, wanted)
    check_shapes(wanted, found, str(path), network)
    return found


def plain(tensors: Mapping[str, Tensor], wanted: Shapes) -> dict[str, Tensor]:
    """The tensors without prefixes of wrappers, whatever else may not fit."""
    names = unwrapped(wanted, tensors)
    return {names[name]: value for name, value in tensors.items()}


def read_folder(place: Place) -> dict[str, Tensor]:
    """All tensors of a directory as `transformers` saves it, by the names in its files."""
    found: dict[str, Tensor] = {}
    for path in sorted(place.folder.glob("model*.safetensors")):
        found |= read_tensors(path)
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Content digest of weights by the names of their file, "sha256:<hex>"; of no device and no later dtype."""
    return weights_digest.digest({"weights": tensors})


def build(network: Any, config: Any, tensors: Mapping[str, Tensor], place: Place, **settings: Any) -> Any:
    """A model of `transformers` with all its weights, in float32 and evaluation mode.

    Args:
        network: its class.
        config: its config.
        tensors: by the names that the hub's files have; `transformers` knows what these are today.
        place: for messages.
        settings: of the class.

    Raises ValueError naming what is missing, unexpected or of another shape.
    """
    # Last bits of products depend on where a tensor begins, and in a mapped file that may be anywhere.
    aligned = {name: value.clone() for name, value in tensors.items()}
    with place.explained():
        model, info = network.from_pretrained(
            None,
            config=config,
            state_dict=aligned,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    place.check(model.state_dict().keys(), info)
    return model.eval().requires_grad_(False)


def vit_shapes(width: int, depth: int, patch: Sequence[int], tokens: int) -> dict[str, list[int]]:
    """Names and shapes that a ViT has in timm, without those of its ends and of biases in its attention."""
    wide = 4 * width
    block = {
        "norm1": [[width], [width]],
        "norm2": [[width], [width]],
        "attn.proj": [[width, width], [width]],
        "mlp.fc1": [[wide, width], [wide]],
        "mlp.fc2": [[width, wide], [width]],
    }
    shapes = {"pos_embed": [1, tokens, width]}
    shapes |= {"patch_embed.proj.weight": [width, 3, *patch], "patch_embed.proj.bias": [width]}
    for number in range(depth):
        shapes[f"blocks.{number}.attn.qkv.weight"] = [3 * width, width]
        for part, (weight, bias) in block.items():
            shapes |= {f"blocks.{number}.{part}.weight": weight, f"blocks.{number}.{part}.bias": bias}
    return shapes


def vit_to_hub(tensors: Mapping[str, Tensor], ends: Mapping[str, str], prefix: str = "") -> dict[str, Tensor]:
    """A ViT's tensors by the names of the hub's files.

    Args:
        tensors: by the names that timm gives them.
        ends: names, without suffixes, of what is in no block.
        prefix: of the blocks.
    """
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        stem, _, suffix = name.rpartition(".")
        if name in ends:
            found[ends[name]] = value
        elif stem in ends:
            found[f"{ends[stem]}.{suffix}"] = value
        elif block := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            number, inside = block.groups()
            layer = f"{prefix}encoder.layer.{number}."
            part, _, kind = inside.rpartition(".")
            if part == "attn.qkv":
                for role, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    found[f"{layer}attention.attention.{role}.{kind}"] = piece
            else:
                found[layer + (_VIT_BLOCK.get(inside) or f"{_VIT_BLOCK[part]}.{kind}")] = value
    return found
