"""The shapes of the video-to-audio networks, without torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lumina.config import Config
from lumina.flow_matching.schedules import NumberSchedule
from lumina.models.config import CONDITION_WIDTH, PatchSize, swiglu_width


class SynchformerConfig(Config):
    """Shape of Synchformer's visual tower; the published one by default."""

    width: int = Field(default=768, ge=1)
    """Of a token."""
    depth: int = Field(default=12, ge=1)
    """Blocks of attention over time, then over space."""
    heads: int = Field(default=12, ge=1)
    """Of every attention; they divide the width."""
    patch: int = Field(default=16, ge=1)
    """Pixels along a side of a patch; it divides the frame's."""
    mlp_ratio: int = Field(default=4, ge=1)
    """Hidden width of the feed-forward layers in units of the width."""
    image_size: int = Field(default=224, ge=1)
    """Pixels along a side of a frame."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads or self.image_size % self.patch:
            raise ValueError(
                f"heads {self.heads} must divide the width {self.width}, "
                f"and the patch {self.patch} the side {self.image_size}"
            )
        return self


class VideoToAudioConfig(Config):
    """Shape of a VideoToAudioDiT (paper appendix D, figure 8). The paper gives no sizes: `V2A_MODELS` has ours."""

    dim: int = Field(ge=16)
    """Width of a token."""
    n_layers: int = Field(ge=1)
    """Transformer blocks."""
    n_heads: int = Field(ge=1)
    """Query heads; dim / n_heads must be a multiple of 4."""
    n_kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads (grouped-query attention); None means n_heads."""
    patch: tuple[int, int] = (1, 2)
    """Latent time steps and rows of one token. An odd number of steps needs 1 in time."""
    in_channels: int = Field(default=8, ge=1)
    """Latent channels of the audio VAE."""
    latent_rows: int = Field(default=16, ge=1)
    """Rows of the latent: mel bins through the VAE's factor."""
    visual_dim: int = Field(default=1024, ge=1)
    """Width of the visual features."""
    text_dim: int = Field(default=1024, ge=1)
    """Width of the text features."""
    text_tokens: int = Field(default=77, ge=1)
    """Tokens of the text that stands for none, as many as the text encoder takes."""
    sync_dim: int = Field(default=768, ge=1)
    """Width of the synchronisation features."""
    sync_grid: Literal["uniform", "time"] = "uniform"
    """Where the tokens of overlapping segments are in time: evenly spread, as MMAudio takes them, up to 0.29 s off; or
    at their true times, with those of one time averaged, and a condition of its own for each of a token's two
    frames."""
    multiple_of: int = Field(default=256, ge=1)
    """The feed-forward width is rounded up to a multiple of this."""
    ffn_dim_multiplier: float | None = Field(default=None, gt=0)
    """Factor on the feed-forward width before rounding."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the RMS norms."""
    qk_norm: bool = True
    """Layer-normalise queries and keys."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    t_scale: float = Field(default=1000.0, gt=0)
    """Factor on t (0 noise, 1 data) before its sinusoid."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.n_heads or self.head_dim % 4:
            raise ValueError(
                f"dim / n_heads must be a multiple of 4 (2-D rotary positions), got {self.dim} / {self.n_heads}"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads {self.n_heads} must be a multiple of n_kv_heads {self.kv_heads}")
        if min(self.patch) < 1 or self.latent_rows % self.patch[1]:
            raise ValueError(f"the patch {self.patch} (steps, rows) must divide {self.latent_rows} latent rows")
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
    def rope_widths(self) -> PatchSize:
        """Half of a head turns with time, half with frequency."""
        return self.head_dim // 2, self.head_dim // 2, 0

    @property
    def cap_feat_dim(self) -> int:
        """Width of what the gated branch attends to: the embeddings of what is seen and said."""
        return self.dim

    @property
    def condition_dim(self) -> int:
        """Width of the conditioning vectors."""
        return min(self.dim, CONDITION_WIDTH)

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the SwiGLU feed-forward layers."""
        return swiglu_width(self.dim, self.multiple_of, self.ffn_dim_multiplier)


V2A_MODELS: dict[str, VideoToAudioConfig] = {
    "tiny": VideoToAudioConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, multiple_of=64),
    "S": VideoToAudioConfig(dim=768, n_layers=12, n_heads=12, n_kv_heads=6),
    "M": VideoToAudioConfig(dim=896, n_layers=16, n_heads=14, n_kv_heads=7),
    "L": VideoToAudioConfig(dim=1152, n_layers=24, n_heads=16, n_kv_heads=8),
}
"""Sizes by name: 1.1, 113, 213 and 496 M parameters in the blocks."""


class SoundSamplerConfig(Config):
    """How noise becomes a sound: Euler steps and guidance over t."""

    steps: int = Field(default=25, ge=1)
    """Velocity evaluations, without counting the unconditional half."""
    time_shift: float = Field(default=1.0, gt=0)
    """Larger values put more steps near the noise; 1 spaces them evenly."""
    guidance: NumberSchedule = ((0.0, 3.5),)
    """Weight w over t of v + w (v - v_null); MMAudio's scale s is w + 1. 0 leaves the unconditional side out."""
    norm_cap: float | None = Field(default=None, gt=0)
    """Largest norm of the guided velocity as a multiple of the unguided one; None does not limit it."""
