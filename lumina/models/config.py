"""The hyper-parameters of the networks, without torch, so that every config can be read and checked quickly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from pydantic import Field, ValidationError, model_validator

from lumina.config import Config

PatchSize = tuple[int, int, int]
"""Latent frames, rows and columns of one token: (pt, ph, pw)."""

IMAGE_PATCH: PatchSize = (1, 2, 2)
"""The only scale at which images are trained and sampled (paper section 4, multi-scale training)."""

EncodeRecipe = Literal["whole-clip/1", "released-chunks/1"]
"""How latents are made; a name changes whenever its numbers do. Both take the posterior's mode times the config's
scaling factor. `whole-clip`: the clip as diffusers encodes it, the odd frame first. `released-chunks`: as the released
script does, 32 frames at a time with the convolutions' memory carried on, so that the odd frame comes last: 33 frames
give 8 + 1 latents, 49 give 8 + 5."""

Recompute = Literal["none", "per-op", "attention", "full"]
"""What the backward pass computes again: nothing, all but matrix products and attention, all but attention, or
everything."""

AttentionKernel = Literal["auto", "fa2", "fa3", "cudnn"]
"""Kernel of attention on GPUs: torch's own choice, FlashAttention 2 or 3, or cuDNN's."""

CONDITION_WIDTH = 1024
"""Widest conditioning vector: adaLN inputs have min(dim, 1024) channels."""


def patch_key(patch: PatchSize) -> str:
    """Name of a scale in parameter names, "<spatial>-<temporal>": (2, 4, 4) -> "4-2"."""
    return f"{patch[1]}-{patch[0]}"


class TokenShape(Protocol):
    """What tells how latents become tokens."""

    @property
    def in_channels(self) -> int:
        """Latent channels."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""

    @property
    def rope_widths(self) -> PatchSize:
        """Parts of a head that turn with the token's frame, row and column; each is even, and they fill it."""

    @property
    def rope_theta(self) -> float:
        """Base of the rotary frequencies."""


class BlockShape(TokenShape, Protocol):
    """What tells the shape of a block."""

    @property
    def dim(self) -> int:
        """Width of a token."""

    @property
    def n_heads(self) -> int:
        """Query heads."""

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""

    @property
    def cap_feat_dim(self) -> int:
        """Width of the features that the gated branch attends to."""

    @property
    def condition_dim(self) -> int:
        """Width of the conditioning vector."""

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the feed-forward layers."""

    @property
    def norm_eps(self) -> float:
        """Epsilon of the RMS norms."""

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised."""


class StackShape(BlockShape, Protocol):
    """What tells the shape of a network's blocks."""

    @property
    def n_layers(self) -> int:
        """Blocks."""


def swiglu_width(dim: int, multiple_of: int, multiplier: float | None = None) -> int:
    """Hidden width of a SwiGLU layer: 8/3 of `dim`, times `multiplier`, rounded up to a multiple."""
    width = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * math.ceil(width / multiple_of)


class NextDiTConfig(Config):
    """Shape of a MultiScaleNextDiT (paper section 3.1); the released model is `RELEASED_MODELS["2B_GQA"]`."""

    dim: int = Field(ge=16)
    """Width of a token."""
    n_layers: int = Field(ge=1)
    """Transformer blocks, shared by all scales."""
    n_heads: int = Field(ge=1)
    """Query heads; dim / n_heads must be a multiple of 16."""
    n_kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads (grouped-query attention); None means n_heads."""
    cap_feat_dim: int = Field(ge=1)
    """Width of the text encoder's features."""
    patch_sizes: tuple[PatchSize, ...] = Field(default=((1, 2, 2), (2, 2, 2), (2, 4, 4)), min_length=1)
    """The scales, finest first: latent (frames, rows, columns) of one token; rows equal columns."""
    in_channels: int = Field(default=16, ge=1)
    """Latent channels of the VAE."""
    multiple_of: int = Field(default=256, ge=1)
    """The feed-forward width is rounded up to a multiple of this."""
    ffn_dim_multiplier: float | None = Field(default=None, gt=0)
    """Factor on the feed-forward width before rounding."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the RMS norms."""
    qk_norm: bool = True
    """Layer-normalise queries and keys."""
    rope_theta: float = Field(default=256.0, gt=0)
    """Base of the rotary frequencies."""
    t_scale: float = Field(default=1000.0, gt=0)
    """Factor on t (0 noise, 1 data) before its sinusoid."""
    motion_scale: float = Field(default=20.0, gt=0)
    """Factor on the motion score before its sinusoid."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.n_heads or (self.dim // self.n_heads) % 16:
            raise ValueError(
                f"dim / n_heads must be a multiple of 16 (3-D rotary positions), got {self.dim} / {self.n_heads}"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads {self.n_heads} must be a multiple of n_kv_heads {self.kv_heads}")
        for patch in self.patch_sizes:
            if min(patch) < 1 or patch[1] != patch[2]:
                raise ValueError(f"a patch size is (frames, rows, columns) with rows equal to columns, got {patch}")
        if len(set(self.patch_sizes)) != len(self.patch_sizes):
            raise ValueError(f"patch sizes must differ, got {self.patch_sizes}")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def condition_dim(self) -> int:
        """Width of the conditioning vector."""
        return min(self.dim, CONDITION_WIDTH)

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the SwiGLU feed-forward layers."""
        return swiglu_width(self.dim, self.multiple_of, self.ffn_dim_multiplier)

    @property
    def rope_widths(self) -> PatchSize:
        """Parts of a head for frames, rows and columns: 36/54/54 of 144."""
        eighth = self.head_dim // 8
        return 2 * eighth, 3 * eighth, 3 * eighth

    def check_patch(self, patch: PatchSize) -> None:
        """Raise ValueError if the model has no such scale."""
        if patch not in self.patch_sizes:
            raise ValueError(f"the model has no patch size {patch}; it has {', '.join(map(str, self.patch_sizes))}")

    @classmethod
    def from_released(cls, arguments: Mapping[str, Any]) -> NextDiTConfig:
        """Build from the released constructor's argument names, where two zipped lists give the patch sizes."""
        values = dict(arguments)
        spatial, temporal = values.pop("all_patch_size"), values.pop("all_f_patch_size")
        if len(spatial) != len(temporal):
            raise ValueError(f"all_patch_size {spatial} and all_f_patch_size {temporal} must have equal length")
        patches = tuple((t, s, s) for s, t in zip(spatial, temporal, strict=True))
        # The released constructor normalises queries and keys only when asked.
        return cls(**{"qk_norm": False, **values, "patch_sizes": patches})


RELEASED_MODELS = {
    "2B_GQA": NextDiTConfig(dim=2304, n_layers=24, n_heads=16, n_kv_heads=8, cap_feat_dim=2304),
    "2B": NextDiTConfig(dim=2304, n_layers=24, n_heads=16, cap_feat_dim=2304),
}
"""The published sizes: 1,771,364,672 and 2,026,279,232 parameters."""


FLOW_CONFIG_FILE = "config.json"


class UniMatchConfig(Config):
    """Shape of a UniMatch flow network; the defaults are the released scale-2 network with refinement."""

    feature_channels: int = Field(default=128, ge=4, multiple_of=4)
    """Channels C of the matched features."""
    backbone_channels: tuple[int, int, int] = (64, 96, 128)
    """Channels of the three levels of the convolutional backbone."""
    num_scales: int = Field(default=2, ge=1, le=2)
    """1 matches at 1/8 of the image's size, 2 at 1/8 and then at 1/4."""
    num_transformer_layers: int = Field(default=6, ge=1)
    """Layers of self- and cross-attention, shared by the scales."""
    ffn_dim_expansion: int = Field(default=4, ge=1)
    """Width of the feed-forward layers in units of 2 C."""
    attn_splits: tuple[int, ...] = (2, 8)
    """Per scale, coarse first: attention windows along each side; 1 attends everywhere."""
    corr_radius: tuple[int, ...] = (-1, 4)
    """Per scale: matching within this radius; -1 matches everywhere."""
    prop_radius: tuple[int, ...] = (-1, 1)
    """Per scale: propagation of the flow within this radius; -1 propagates everywhere."""
    reg_refine: bool = True
    """Refine the flow with a recurrent network."""
    num_reg_refine: int = Field(default=6, ge=1)
    """Iterations of the refinement."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("attn_splits", "corr_radius", "prop_radius"):
            if len(getattr(self, name)) != self.num_scales:
                raise ValueError(f"{name} needs one value per scale, {self.num_scales}, got {getattr(self, name)}")
        if min(self.attn_splits) < 1 or min(self.corr_radius) < -1 or min(self.prop_radius) < -1:
            raise ValueError("attn_splits must be 1 or more, corr_radius and prop_radius -1 or more")
        if 0 in self.corr_radius or 0 in self.prop_radius:
            raise ValueError("a radius is -1 (everywhere) or at least 1")
        return self

    @property
    def factor(self) -> int:
        """Sides of the image in units of those of the finest map."""
        return 8 >> (self.num_scales - 1)

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of: whole windows at every scale."""
        strides = (8, 4)[: self.num_scales]
        return math.lcm(8, *(stride * splits for stride, splits in zip(strides, self.attn_splits, strict=True)))


RELEASED_FLOW_MODELS: dict[str, UniMatchConfig] = {
    "gmflow-scale1": UniMatchConfig(
        num_scales=1, attn_splits=(2,), corr_radius=(-1,), prop_radius=(-1,), reg_refine=False
    ),
    "gmflow-scale2": UniMatchConfig(reg_refine=False),
    "gmflow-scale2-regrefine6": UniMatchConfig(),
}
"""The released flow networks by the start of their file names; the paper's motion scores are of the last one
(`gmflow-scale2-regrefine6-mixdata-train320x576-4e7b215d.pth`)."""


def load_flow_config(source: Path) -> UniMatchConfig:
    """Tell the shape of the flow network in `source`: a directory, or a released `.pth` file, told by its name.

    Raises FileNotFoundError if it is not there, ValueError if its config or its name is none of a flow network.
    """
    path = source if source.suffix == ".pth" else source / FLOW_CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: give a released UniMatch .pth file, or a directory with {FLOW_CONFIG_FILE} and safetensors"
        )
    if source.suffix != ".pth":
        try:
            return UniMatchConfig.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise ValueError(f"{path} is no config of a UniMatch network: {where}: {first['msg']}") from error
    names = [name for name in RELEASED_FLOW_MODELS if source.name.startswith(f"{name}-") or source.stem == name]
    if not names:
        raise ValueError(
            f"{source.name} does not tell which network it holds: keep the released name, which starts with "
            f"{', '.join(RELEASED_FLOW_MODELS)}"
        )
    return RELEASED_FLOW_MODELS[max(names, key=len)]
