"""The rules of selection: limits on what is known of a clip, and which of them a clip fails."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from curation.schema import AV_ALIGN, MOTION, SOUND, Reason
from curation.score_columns import OF_VIDEOS
from lumina.config import Config

Row = dict[str, Any]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bound = Annotated[float, Field(allow_inf_nan=False)]

EXTRA = "extra."
"""What a score's name begins with when it is a column of the manifest."""
_OF_VIDEOS = frozenset(
    {
        "fps", "duration_s", "file_duration_s", "frames_container", "frames_decodable", "frames_shown", "max_gap_s",
        "interlaced", "hdr", "span_start_s", "span_end_s", *MOTION.names, *SOUND.names,
        *AV_ALIGN.names, *OF_VIDEOS,
    }
)  # fmt: skip
"""Columns that an image has no value in."""


class Range(Config):
    """Limits of a score; one that is null is off."""

    min: Bound | None = None
    """Smallest value."""
    max: Bound | None = None
    """Largest value."""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is larger than max {self.max:g}")
        return self


class Rules(Config):
    """Limits on clips; one that is null is off. Rules on time and motion do not concern images."""

    min_duration_s: Limit | None = None
    """Shortest clip in seconds; of a span or a shot its own length, here as everywhere."""
    max_duration_s: Limit | None = None
    """Longest clip in seconds."""
    min_fps: Limit | None = None
    """Fewest frames per second."""
    max_fps: Limit | None = None
    """Most frames per second."""
    min_area: int | None = Field(default=None, ge=1)
    """Smallest width x height in pixels, as shown."""
    min_motion: Limit | None = None
    """Smallest `flow_abs_mean`, in the unit of the motion stage."""
    max_motion: Limit | None = None
    """Largest `flow_abs_mean`."""
    min_caption_chars: int | None = Field(default=None, ge=1)
    """Shortest caption."""
    max_caption_chars: int | None = Field(default=None, ge=1)
    """Longest caption."""
    scores: dict[str, Range | None] = Field(default_factory=dict)
    """Limits of other numbers by name: a column of the probe, motion or scores tables, such as `flow_mag_mean`,
    or `extra.<column>` for a column of the manifest. A clip whose value is missing or no number fails."""

    @model_validator(mode="after")
    def _in_order(self) -> Rules:
        check_ranges(self)
        return self


class SourceRules(Rules):
    """Rules of one source: those given replace the general ones, and null switches one off. A score that is named
    here replaces that score's limits alone."""

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A limit that is not given stays as it is; one that is null is off: two policies, so not one dump.
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}

    def over(self, rules: Rules) -> Rules:
        """`rules` with what is given here in its place."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return rules.model_copy(update={**given, "scores": {**rules.scores, **self.scores}})


@dataclass(frozen=True)
class Failure:
    """A rule that a clip fails."""

    rule: str
    """The reason's name; a score's name follows after a colon: `score:flow_mag_mean`."""
    detail: str
    """What was measured, and the limit."""

    @property
    def reason(self) -> Reason:
        """The rule's reason."""
        return reason_of(self.rule)


def reason_of(rule: str) -> Reason:
    """The reason of a rule's name, whatever score or latents set it names besides."""
    return Reason(re.split("[:@]", rule, maxsplit=1)[0])


def check_ranges(rules: Rules) -> None:
    """ValueError for a lower limit above its upper one."""
    for name in type(rules).model_fields:
        upper = f"max_{name.removeprefix('min_')}"
        low, high = getattr(rules, name), getattr(rules, upper, None)
        if name.startswith("min_") and low is not None and high is not None and low > high:
            raise ValueError(f"{name} {low:g} is larger than {upper} {high:g}")


def failed_rules(row: Row, rules: Rules) -> list[Failure]:
    """Every rule that a sound row fails, in a fixed order. A value that is unknown fails."""
    is_video = row["media"] == "video"
    failures = []
    for reason, field, name, of_videos, measure in _LIMITS:
        limit = getattr(rules, field)
        if limit is None or (of_videos and not is_video):
            continue
        bounds = (limit, None) if field.startswith("min_") else (None, limit)
        if problem := _problem(measure(row), *bounds):
            failures.append(Failure(str(reason), f"{name} {problem}"))
    for name, score in sorted(rules.scores.items()):
        if score is None or (score.min is None and score.max is None) or (name in _OF_VIDEOS and not is_video):
            continue
        if problem := _problem(_score(row, name), score.min, score.max):
            failures.append(Failure(f"{Reason.SCORE}:{name}", f"{name} {problem}"))
    return failures


_LIMITS: tuple[tuple[Reason, str, str, bool, Callable[[Row], Any]], ...] = (
    (Reason.MIN_DURATION, "min_duration_s", "duration_s", True, lambda row: row["duration_s"]),
    (Reason.MAX_DURATION, "max_duration_s", "duration_s", True, lambda row: row["duration_s"]),
    (Reason.MIN_FPS, "min_fps", "fps", True, lambda row: row["fps"]),
    (Reason.MAX_FPS, "max_fps", "fps", True, lambda row: row["fps"]),
    (Reason.MIN_AREA, "min_area", "area", False, lambda row: row["width"] * row["height"]),
    (Reason.MIN_MOTION, "min_motion", "motion", True, lambda row: row["motion_score"]),
    (Reason.MAX_MOTION, "max_motion", "motion", True, lambda row: row["motion_score"]),
    (Reason.MIN_CAPTION, "min_caption_chars", "caption characters", False, lambda row: len(row["caption"].strip())),
    (Reason.MAX_CAPTION, "max_caption_chars", "caption characters", False, lambda row: len(row["caption"].strip())),
)
"""Reason, field of `Rules`, name in details, whether images are let through, and what is measured."""


def _problem(value: Any, low: float | None, high: float | None) -> str | None:
    if value is None or value == "":
        return "is missing"
    number = _number(value)
    if number is None:
        return f"{value!r} is no finite number"
    if low is not None and number < low:
        return f"{_text(number)} below {_text(low)}"
    if high is not None and number > high:
        return f"{_text(number)} above {_text(high)}"
    return None


def _number(value: Any) -> float | None:
    """A cell of a manifest is text, and may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(number: float) -> str:
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e15 else f"{number:.6g}"


def _score(row: Row, name: str) -> Any:
    return extra_of(row).get(name.removeprefix(EXTRA)) if name.startswith(EXTRA) else row[name]


def extra_of(row: Row) -> dict[str, Any]:
    """The manifest's further columns of a row."""
    values: dict[str, Any] = json.loads(row["extra"] or "{}")
    return values


def score_columns(*schemas: pa.Schema) -> tuple[str, ...]:
    """Names of the columns that hold one number a row, sorted."""
    return tuple(
        sorted(
            {
                field.name
                for schema in schemas
                for field in schema
                if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            }
        )
    )


def as_written(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A score's column, of 32-bit floats the numbers that they are written as: the 0.3 of a table is not above 0.3."""
    if not pa.types.is_float32(column.type):
        return column
    return column.cast(pa.string()).cast(pa.float64())
