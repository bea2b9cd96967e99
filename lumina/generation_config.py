"""What a saved TextToVideo generates when nothing else is asked for. No torch in here."""

from __future__ import annotations

from pydantic import Field

from lumina.config import Config
from lumina.flow_matching.schedules import Sampler, SamplerConfig


class GenerationConfig(Config):
    """Defaults of `lumina generate`."""

    num_frames: int = Field(default=16, ge=1)
    """Frames of a clip: 1, or a multiple of 4 from 8 on."""
    fps: float = Field(default=8.0, gt=0)
    """Frame rate of the written file: that of the training clips, since the model is not told it."""
    width: int = Field(default=64, ge=16)
    """Pixels; a multiple of 8 times the largest patch."""
    height: int = Field(default=64, ge=16)
    """Pixels; a multiple of 8 times the largest patch."""
    sampler: Sampler = SamplerConfig()
    """Steps, scales, guidance and motion."""
    source: str | None = None
    """Source whose system prompt is used when none is named; None asks for one unless there is only one."""
