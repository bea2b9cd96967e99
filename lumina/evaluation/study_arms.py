"""Arms of a study: named sampler settings that are judged on the same prompts from the same noises.

An arm says what differs from the sampler of the evaluation. The paper's comparisons are ready: each scale alone and
all combined (Table 2), pairs of motion scores, constant and scheduled (Table 3), and weights of guidance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lumina.config import Config
from lumina.evaluation.metrics import METRICS
from lumina.evaluation.prompts import CaptionSuite, ListSuite, ShapesSuite
from lumina.evaluation.standard_scores import are_unlike
from lumina.flow_matching.schedules import PatchSchedule, SamplerConfig
from lumina.models.config import PatchSize

Kind = Literal["schedules", "motion", "guidance"]
KINDS: tuple[Kind, ...] = ("schedules", "motion", "guidance")

PAPER_SWITCHES = (0.075, 0.3)
"""Where the released 512 px schedule leaves its coarsest scale, and the one between."""

_MOTION_SPLIT = 0.05
_CONSTANT, _SCHEDULED = ((4.0, 4.0), (4.0, 2.0), (8.0, 8.0), (8.0, 2.0)), (4.0, 8.0)
_WEIGHTS = (1.0, 2.0, 4.0, 8.0)


class StudyConfig(Config):
    """One study: arms, and what they are judged by. What is left out is as in `evaluate`."""

    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name to settings of the sampler that differ from `evaluate.sampler`, as `patches`, `motion` or `steps`. Empty:
    the arms of the paper that the study's name stands for, `schedules`, `motion` or `guidance`."""
    reference: str | None = None
    """Arm that every other one is compared with; None is the first."""
    score: dict[str, float] | None = Field(default=None, min_length=1)
    """Metric to weight: their weighted mean is the figure `score`. None is that of `choose`."""
    suite: ShapesSuite | CaptionSuite | ListSuite | None = Field(default=None, discriminator="kind")
    """The prompts; None is those of `evaluate`."""
    samples: int | None = Field(default=None, ge=1)
    """Clips of each prompt, from different noises; None is as in `evaluate`."""
    metrics: tuple[str, ...] | None = Field(default=None, min_length=1)
    """What is measured; None is as in `evaluate`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for arm, settings in self.arms.items():
            for key in settings:
                if key not in SamplerConfig.model_fields:
                    raise ValueError(f"arm {arm!r}: there is no {key!r} in a sampler; there are {_fields()}")
        if self.arms and self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference is {self.reference!r}; the arms are {', '.join(self.arms)}")
        for name in self.metrics or ():
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}; there are {', '.join(sorted(METRICS))}")
        check_score(self.score or {})
        return self


def check_score(score: Mapping[str, float]) -> None:
    """ValueError for an unknown metric, or for metrics that cannot be added up as they are."""
    for name, weight in score.items():
        if name not in METRICS:
            raise ValueError(f"score names the unknown metric {name!r}; there are {', '.join(sorted(METRICS))}")
        if weight == 0:
            raise ValueError(f"the weight of {name!r} is zero: leave the metric out")
    if are_unlike(score):
        raise ValueError(
            f"score adds up metrics of unlike units: {', '.join(score)}; take shares of clips, or one alone"
        )


def samplers(arms: Mapping[str, Mapping[str, Any]], base: SamplerConfig) -> dict[str, SamplerConfig]:
    """The whole sampler of each arm.

    Raises:
        ValueError: settings that are none, or two arms that are the same; the arm is named.
    """
    found: dict[str, SamplerConfig] = {}
    for name, settings in arms.items():
        try:
            sampler = SamplerConfig.model_validate({**base.model_dump(), **settings})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"arm {name!r}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
        for other, known in found.items():
            if known == sampler:
                raise ValueError(f"arms {other!r} and {name!r} are the same settings: leave one out")
        found[name] = sampler
    return found


def check_patches(arms: Mapping[str, SamplerConfig], known: Sequence[PatchSize], whose: str) -> None:
    """ValueError if an arm samples at a scale that is not among the known ones; it names the arm."""
    for name, sampler in arms.items():
        for _, patch in sampler.patches:
            if patch not in known:
                has = ", ".join(map(str, sorted(known)))
                raise ValueError(f"arm {name!r} samples at patch size {patch}, which {whose} lacks; it has {has}")


def standard_arms(kind: Kind, base: SamplerConfig, patches: Sequence[PatchSize]) -> dict[str, dict[str, Any]]:
    """Arms of a comparison of the paper, the reference first.

    Args:
        kind: `schedules` (Table 2), `motion` (Table 3) or `guidance`.
        base: that an arm says the difference from; if it is not among them, it is one more, named `own`.
        patches: the scales that the model has learnt.
    """
    made = {"schedules": _schedules, "motion": _motion, "guidance": _guidance}[kind](base, patches)
    if base not in samplers(made, base).values():
        made["own"] = {}
    return made


def paper_schedule(patches: Sequence[PatchSize]) -> PatchSchedule:
    """From the coarsest to the finest of these scales, at the released switches; of two the coarser goes first."""
    ordered = sorted(patches, key=lambda patch: (-math.prod(patch), patch))[-3:]
    starts = (0.0, *PAPER_SWITCHES[len(PAPER_SWITCHES) + 1 - len(ordered) :])
    return tuple(zip(starts, ordered, strict=True))


def patch_name(patch: PatchSize) -> str:
    """`2x4x4`: latent frames, rows and columns of a token."""
    return "x".join(map(str, patch))


def _schedules(base: SamplerConfig, patches: Sequence[PatchSize]) -> dict[str, dict[str, Any]]:
    ordered = sorted(patches, key=lambda patch: (math.prod(patch), patch))
    made: dict[str, dict[str, Any]] = {patch_name(patch): {"patches": ((0.0, patch),)} for patch in ordered}
    if len(ordered) > 1:
        made["combined"] = {"patches": paper_schedule(ordered)}
    return made


def _motion(base: SamplerConfig, patches: Sequence[PatchSize]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {
        f"{positive:g}/{negative:g}": {"motion": ((0.0, positive),), "negative_motion": ((0.0, negative),)}
        for positive, negative in _CONSTANT
    }
    for positive in _SCHEDULED:
        negative = ((0.0, 2.0), (_MOTION_SPLIT, "positive"))
        made[f"{positive:g}/2-{positive:g}"] = {"motion": ((0.0, positive),), "negative_motion": negative}
    return made


def _guidance(base: SamplerConfig, patches: Sequence[PatchSize]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {"none": {"guidance": ((0.0, 0.0),)}}
    for weight in _WEIGHTS:
        made[f"{weight:g}"] = {"guidance": ((0.0, weight),)}
    made["8 to 0.4"] = {"guidance": ((0.0, _WEIGHTS[-1]), (0.4, 0.0))}
    made["8 capped"] = {"guidance": ((0.0, _WEIGHTS[-1]),), "norm_cap": 2.0}
    return made


def _fields() -> str:
    return ", ".join(SamplerConfig.model_fields)
