"""Piecewise-constant schedules over t, the sampler's settings, and the released presets. No torch in here.

A schedule is ((0.0, a), (t_1, b), ...): a from t = 0 on, b from t = t_1 on. The t that is compared is the one the
model sees, after rounding to its type: float32 0.03 is 0.0299999993 and still takes the value before 0.03.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from lumina.config import Config
from lumina.models.config import IMAGE_PATCH, PatchSize

T = TypeVar("T")


def value_at(schedule: Sequence[tuple[float, T]], t: float) -> T:
    """The value of the last piece that starts at or before t."""
    value = schedule[0][1]
    for start, later in schedule[1:]:
        if t >= start:
            value = later
    return value


def _check(schedule: tuple[tuple[float, T], ...]) -> tuple[tuple[float, T], ...]:
    starts = [start for start, _ in schedule]
    if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)) or starts[-1] >= 1:
        raise ValueError(f"a schedule starts at t = 0 and its starts ascend below 1, got {starts}")
    return schedule


NumberSchedule = Annotated[tuple[tuple[float, float], ...], Field(min_length=1), AfterValidator(_check)]
MotionSchedule = Annotated[
    tuple[tuple[float, float | Literal["positive"]], ...], Field(min_length=1), AfterValidator(_check)
]
"""Motion scores over t; "positive" is the score that the positive side has then."""
PatchSchedule = Annotated[tuple[tuple[float, PatchSize], ...], Field(min_length=1), AfterValidator(_check)]


class SamplerConfig(Config):
    """How noise becomes a video: Euler steps, patch sizes, guidance and motion over t (paper sections 3.1.4, 3.2 and
    5.2)."""

    steps: int = Field(default=25, ge=1)
    """Velocity evaluations (without counting the unconditional half of guided ones); the released presets take 69."""
    time_shift: float = Field(default=8.0, gt=0)
    """Larger values put more steps near the noise; 1 spaces them evenly."""
    patches: PatchSchedule = ((0.0, (1, 2, 2)),)
    """Patch size over t: coarse while there is noise, fine at the end. A single frame is sampled at (1, 2, 2) alone, as
    images are trained."""
    guidance: NumberSchedule = ((0.0, 4.0),)
    """Weight w over t of v + w (v - v_negative); 0 leaves the negative side out. An interval is three pieces."""
    norm_cap: float | None = Field(default=None, gt=0)
    """Largest norm of the guided velocity as a multiple of the unguided one; None does not limit it."""
    motion: NumberSchedule = ((0.0, 6.0),)
    """Motion score over t of the positive side; negative means unspecified."""
    negative_motion: MotionSchedule = ((0.0, 2.0), (0.05, "positive"))
    """Motion score over t of the negative side; a lower one than the positive side's makes clips move more. "positive"
    is the score of the positive side, also where a clip is given one of its own (paper section 5.2.2)."""
    cache_threshold: float | None = Field(default=None, gt=0)
    """Step caching: reuse what the blocks added to the tokens until the time embedding has drifted this far (relative
    L1 changes, summed over steps), or the scale or the guidance switches. None runs the blocks in every step."""
    time_dtype: Literal["model", "float32"] = "model"
    """Type of the t that the model sees; "model" rounds it to the weights' type as the released sampler does."""

    def patches_of(self, latent_frames: int) -> PatchSchedule:
        """Patch size over t of a latent with so many frames."""
        return ((0.0, IMAGE_PATCH),) if latent_frames == 1 else self.patches

    def negative_score(self, t: float, positive: float) -> float:
        """Motion score of the negative side at t beside a positive one."""
        score = value_at(self.negative_motion, t)
        return positive if score == "positive" else score


_SCALES_512: PatchSchedule = ((0.0, (2, 4, 4)), (0.075, (2, 2, 2)), (0.3, (1, 2, 2)))
_SCALES_960: PatchSchedule = ((0.0, (2, 4, 4)), (0.03, (2, 2, 2)), (0.125, (1, 2, 2)))
_RELEASED_512 = SamplerConfig(steps=69, time_shift=8.0, guidance=((0.0, 12.0), (0.4, 0.0)))
_RELEASED_960 = SamplerConfig(steps=69, time_shift=24.0, guidance=((0.0, 20.0), (0.2, 0.0)), norm_cap=2.0)

PRESETS = {
    "f16F64R512": _RELEASED_512,
    "f16F64R512-MultiScale": _RELEASED_512.model_copy(update={"patches": _SCALES_512}),
    "f24F96R960": _RELEASED_960,
    "f24F96R960-MultiScale": _RELEASED_960.model_copy(update={"patches": _SCALES_960}),
}
"""The released settings: name = fps, frames and resolution they were made for."""


def sampler_config(sampler: SamplerConfig | str) -> SamplerConfig:
    """Return the config, looked up in `PRESETS` when given by name; raises ValueError for an unknown name."""
    if isinstance(sampler, SamplerConfig):
        return sampler
    if sampler not in PRESETS:
        raise ValueError(f"no sampler preset {sampler!r}; there are {', '.join(PRESETS)}")
    return PRESETS[sampler]


Sampler = Annotated[
    SamplerConfig, BeforeValidator(lambda value: sampler_config(value) if isinstance(value, str) else value)
]
"""A SamplerConfig as a setting, which may be the name of a preset."""
