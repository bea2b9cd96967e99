"""Settings of semantic duplicates: which network embeds clips, what of them it sees, and how like they may be."""

from __future__ import annotations

from pydantic import Field

from lumina.config import Config


class EmbeddingsConfig(Config):
    """What of a clip is embedded."""

    samples: int = Field(default=4, ge=1, le=64)
    """Frames of the window, evenly spaced, whose embeddings are averaged."""
    window_s: float = Field(default=4.0, gt=0, le=60)
    """Seconds of a long clip that are looked at, from its start on."""


class SemanticConfig(EmbeddingsConfig):
    """Clips with like embeddings are duplicates too."""

    weights: str | None = None
    """CLIP or SigLIP: a directory, `hf:` and a model of the hub, or `zoo:clip` for rendered shapes."""
    similarity: float = Field(default=0.95, gt=0, lt=1)
    """Cosine of two embeddings from which on their clips are duplicates."""

    def embeddings(self) -> EmbeddingsConfig:
        """What they are computed by; the limit is none of it."""
        return EmbeddingsConfig(samples=self.samples, window_s=self.window_s)
