"""Clips of the video-to-audio stages: which become latents and features, how long, and what their configs share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

import pyarrow as pa
from pydantic import Field

from curation.audio import MOST_WINDOW_S
from curation.operator import RANDOM_READ_BYTES, Input, Layout, aside
from curation.schema import SELECT, Reason, RowError, Status, iterate, to_table
from lumina.config import Config
from lumina.precision import DType, Precision, precision_on
from lumina.video_to_audio.lengths import Lengths, lengths

Row = dict[str, Any]

LAYOUT = Layout(row_group_size=16, row_group_bytes=RANDOM_READ_BYTES, compression="none", use_dictionary=False)
"""Of files that training reads in random order."""
_READ = ("uri", "media", "track", "span_start_s", "span_end_s", "duration_s")


class ClipConfig(Config):
    """What the stages have in common; `window_s` must be the same for all that one training reads."""

    window_s: float = Field(default=8.0, ge=0.64, le=MOST_WINDOW_S)
    """Seconds of a long clip that are encoded, from its start on: the paper cuts clips to 8 s. Clips below 0.64 s, one
    segment of Synchformer's, are filtered."""
    dtype: Precision = "auto"
    """Type in which numbers are stored; `auto` is bfloat16 on GPUs and float32 on CPUs."""
    compute_dtype: Precision = "auto"
    """Type in which the network runs; `auto` is bfloat16 on GPUs and float32 on CPUs."""

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        return self.model_copy(update=dict(zip(("dtype", "compute_dtype"), self.types_on(device), strict=True)))

    def types_on(self, device: str) -> tuple[DType, DType]:
        """`dtype` and `compute_dtype` on a device."""
        return precision_on(device, self.dtype), precision_on(device, self.compute_dtype)

    def recipe(self, name: str, *apart: str) -> str:
        """The name of a recipe, with a digest of the settings that decide what is encoded: all but those `apart`."""
        settings = self.model_dump(mode="json", exclude=set(apart))
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
        return f"{name}:{digest}"


def clip_lengths(row: Mapping[str, Any], window_s: float) -> Lengths:
    """Lengths of what a selected clip becomes, from its metadata alone.

    RowError, status filtered: `other_media` for an image, `too_few_frames` below 0.64 s.
    """
    if row["media"] == "image":
        raise RowError(Reason.OTHER_MEDIA, "an image has no sound", Status.FILTERED)
    try:
        return lengths(min(row["duration_s"], window_s))
    except ValueError as error:
        raise RowError(Reason.TOO_FEW_FRAMES, str(error), Status.FILTERED) from error


def planned_schema(schema: pa.Schema) -> pa.Schema:
    """Columns of a plan whose result has `schema`."""
    return pa.schema([*schema, *(SELECT.field(name) for name in _READ)])


def plan_clips(
    inputs: Mapping[str, Input],
    schema: pa.Schema,
    stage: str,
    config: ClipConfig,
    more: Callable[[Row, Lengths], Row],
) -> pa.Table:
    """All rows of `select`, in order of their ids; of those that are encoded, `more` gives further columns."""

    def planned(row: Row) -> Row:
        if row["status"] != Status.OK:
            return row
        try:
            return row | more(row, clip_lengths(row, config.window_s))
        except RowError as error:
            return row | aside(stage, error)

    rows = inputs["select"].rows().sort_by("clip_id")
    return to_table(map(planned, iterate(rows)), planned_schema(schema))
