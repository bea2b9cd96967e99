"""The shapes of the video-to-audio networks, without torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lumina.config import Config


class SynchformerConfig(Config):
    """Shape of Synchformer's visual tower; the published one by default."""

    width: int = Field(default=768, ge=1)
    """Of a token."""
    depth: int = Field(default=12, ge=1)
    """Blocks of attention over time, then over space."""
    heads: int = Field(default=12, ge=1)
    """Of every attention; they divide the width."""
    patch: int = Field(default=16, ge=1)
    """Pixels along a side of a patch; it divides 224."""
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
