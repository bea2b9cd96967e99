"""Names of CLIP's tensors in OpenAI's files: the sizes that their shapes tell, and what the hub's files call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina.vbench.networks import weights

_HEAD_WIDTH = 64
"""Of every CLIP by OpenAI: a file of tensors does not say how many heads there are. open_clip's config does."""
_NOTES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's files hold beside the weights, and that their shapes tell."""
_ENDS = {
    "logit_scale": "logit_scale",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection", "visual.proj")
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclass(frozen=True)
class _Tower:
    width: int
    depth: int


@dataclass(frozen=True)
class _Sizes:
    """ViT-B/32 by default."""

    embedding: int = 512
    text: _Tower = _Tower(512, 12)
    vision: _Tower = _Tower(768, 12)
    vocabulary: int = 49408
    context: int = 77
    patch: int = 32
    patches: int = 49


def fit(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ViT of any size without prefixes and notes; ValueError if names and shapes are not CLIP's."""
    plain = {name: value for name, value in tensors.items() if name.rpartition(".")[-1] not in _NOTES}
    inside = weights.plain(plain, _shapes(_Sizes()))
    return weights.fit(plain, _shapes(_sizes(inside)), path, "CLIP by OpenAI's names")


def settings(tensors: Mapping[str, Tensor], published: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of `transformers.CLIPConfig` for tensors that fit.

    Args:
        tensors: by OpenAI's names.
        published: `model_cfg` of open_clip's config, for heads and activation; None is a CLIP by OpenAI.
    """
    sizes = _sizes(tensors)
    text_heads, vision_heads = (tower.width // _HEAD_WIDTH for tower in (sizes.text, sizes.vision))
    activation = "quick_gelu"
    if published is not None:
        text_heads = int(published["text_cfg"].get("heads", 8))
        vision_heads = sizes.vision.width // int(published["vision_cfg"].get("head_width", _HEAD_WIDTH))
        activation = "quick_gelu" if published.get("quick_gelu", False) else "gelu"
    return {
        "projection_dim": sizes.embedding,
        "text_config": {
            **_tower_settings(sizes.text, sizes.embedding, text_heads, activation),
            "vocab_size": sizes.vocabulary,
            "max_position_embeddings": sizes.context,
            # The two largest ids are at the ends of a text.
            "bos_token_id": sizes.vocabulary - 2,
            "eos_token_id": sizes.vocabulary - 1,
        },
        "vision_config": {
            **_tower_settings(sizes.vision, sizes.embedding, vision_heads, activation),
            "patch_size": sizes.patch,
            "image_size": sizes.patch * isqrt(sizes.patches),
        },
    }


def to_hub(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that fit by the names of the hub's files."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in _ENDS:
            found[_ENDS[name]] = value.t().contiguous() if name in _TRANSPOSED else value
            continue
        tower, number, inside = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
        layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}."
        part, _, kind = inside.rpartition(".")
        if inside.startswith("attn.in_proj_"):
            for role, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{layer}self_attn.{role}_proj.{inside.removeprefix('attn.in_proj_')}"] = piece
        else:
            found[f"{layer}{_BLOCK[part]}.{kind}"] = value
    return found


def _sizes(tensors: Mapping[str, Tensor]) -> _Sizes:
    """What the shapes tell; those of ViT-B/32 if one that tells is missing or is no such tensor."""
    dimensions = {"text_projection": 2, "token_embedding.weight": 2, "positional_embedding": 2}
    dimensions |= {"visual.conv1.weight": 4, "visual.positional_embedding": 2}
    if any(name not in tensors or tensors[name].ndim != number for name, number in dimensions.items()):
        return _Sizes()
    text, embedding = tensors["text_projection"].shape
    vision, _, patch, _ = tensors["visual.conv1.weight"].shape
    return _Sizes(
        embedding=embedding,
        text=_Tower(text, _depth(tensors, "transformer.")),
        vision=_Tower(vision, _depth(tensors, "visual.transformer.")),
        vocabulary=len(tensors["token_embedding.weight"]),
        context=len(tensors["positional_embedding"]),
        patch=patch,
        patches=len(tensors["visual.positional_embedding"]) - 1,
    )


def _depth(tensors: Mapping[str, Tensor], tower: str) -> int:
    return len(
        {name.split(".resblocks.")[1].split(".")[0] for name in tensors if name.startswith(f"{tower}resblocks.")}
    )


def _tower_settings(tower: _Tower, embedding: int, heads: int, activation: str) -> dict[str, int | str]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": heads,
        "hidden_act": activation,
        "projection_dim": embedding,
    }


def _shapes(sizes: _Sizes) -> dict[str, list[int]]:
    text, vision = sizes.text.width, sizes.vision.width
    shapes: dict[str, list[int]] = {
        "logit_scale": [],
        "token_embedding.weight": [sizes.vocabulary, text],
        "positional_embedding": [sizes.context, text],
        "text_projection": [text, sizes.embedding],
        "visual.class_embedding": [vision],
        "visual.conv1.weight": [vision, 3, sizes.patch, sizes.patch],
        "visual.positional_embedding": [sizes.patches + 1, vision],
        "visual.proj": [vision, sizes.embedding],
    }
    for norm, width in {"ln_final": text, "visual.ln_pre": vision, "visual.ln_post": vision}.items():
        shapes |= {f"{norm}.weight": [width], f"{norm}.bias": [width]}
    for prefix, tower in {"": sizes.text, "visual.": sizes.vision}.items():
        for number in range(tower.depth):
            block = f"{prefix}transformer.resblocks.{number}."
            shapes |= {block + name: shape for name, shape in _block_shapes(tower.width).items()}
    return shapes


def _block_shapes(width: int) -> dict[str, list[int]]:
    wide = 4 * width
    return {
        "attn.in_proj_weight": [3 * width, width],
        "attn.in_proj_bias": [3 * width],
        "attn.out_proj.weight": [width, width],
        "attn.out_proj.bias": [width],
        "ln_1.weight": [width],
        "ln_1.bias": [width],
        "ln_2.weight": [width],
        "ln_2.bias": [width],
        "mlp.c_fc.weight": [wide, width],
        "mlp.c_fc.bias": [wide],
        "mlp.c_proj.weight": [width, wide],
        "mlp.c_proj.bias": [width],
    }
