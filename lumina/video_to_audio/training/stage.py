"""Training stage config of a video-to-audio model. Light to import, so that a plan can check every stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from lumina.training.stage import StageConfig
from lumina.video_to_audio.config import VideoToAudioConfig

TASK = "sound"
"""Name of the one task in metrics, and part of the address of its random numbers."""


@dataclass(frozen=True)
class SoundTask:
    """The one task of every step; see `lumina.training.data.batches.Task`."""

    batch_size: int
    micro_batch_size: int | None
    micro_batch_tokens: int | None
    source_weights: Mapping[str, float] | None
    name: str = TASK
    media: str = "sound"
    ratio: float = 1.0

    def takes_part(self, step: int) -> bool:
        """Always."""
        return step >= 0


class SoundStageConfig(StageConfig):
    """One stage of training a video-to-audio model. The paper gives no values: those of the optimizer are MMAudio's."""

    model: VideoToAudioConfig
    """The network; a stage that starts from a checkpoint must describe the same one."""
    batch_size: int = Field(ge=1)
    """Samples per optimizer step, over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Samples per forward pass of one worker (one more where the batch does not divide evenly); None takes all."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass of one worker at most, which bounds its memory; a clip that has more is a pass of its
    own. None sets no bound."""
    clips: str | None = Field(default=None, min_length=1)
    """Name of the set of `select.sets` whose clips are trained on; None takes all. Held-out clips are of all sets, so
    that the losses of stages compare."""
    source_weights: Mapping[str, float] | None = None
    """How often a clip of a source appears in an epoch; sources that are not named appear once, 0 leaves one out."""
    media_drop: float = Field(default=0.1, ge=0, le=1)
    """Probability that what is seen is withheld: visual and synchronisation features together."""
    text_drop: float = Field(default=0.1, ge=0, le=1)
    """Probability that what is said is withheld."""
    time_shift: float = Field(default=1.0, gt=0)
    """Factor a of t = u / (u + a - a u): larger is noisier."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=1e-6, ge=0)
    """AdamW's decoupled weight decay."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    vd_weight: float = Field(default=0.0, ge=0)
    """Weight of the velocity-direction loss, 1 - cos(prediction, target); 0 turns it off."""
    t_distribution: Literal["uniform", "lognormal"] = "lognormal"
    """Distribution of u before the time shift; lognormal is the sigmoid of a normal number."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        for source, weight in (self.source_weights or {}).items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weight of source {source!r} must be at least 0, got {weight}")
        return self

    @property
    def task(self) -> SoundTask:
        """What every step trains on."""
        return SoundTask(self.batch_size, self.micro_batch_size, self.micro_batch_tokens, self.source_weights)
