"""Features of frames: what a network sees of each clip at a rate of its own. CLIP and Synchformer are two of them.

Rows in: all selected clips. Rows out: the same, with features for clips of 0.64 s or more. Frames are decoded once, and
those of the next clip while the network looks at this one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.grid_frames import Shape, grid_decoder, grid_frames
from curation.operator import Env, Halves, Input, Report, map_rows
from curation.schema import (
    MEDIA_FEATURES,
    STATUS_COLUMNS,
    Reason,
    Status,
    iterate,
    set_aside,
    status_not_ok,
    to_table,
)
from curation.sound_clips import ClipConfig, Row, clip_lengths, plan_clips, planned_schema
from curation.tensors import DType, pack
from lumina.training.data.index import FEATURES, write_index
from lumina.video_to_audio.lengths import Lengths

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from torch import Tensor

_PLANNED = planned_schema(MEDIA_FEATURES)


@dataclass(frozen=True)
class Eye:
    """A network, and what it looks at."""

    fps: float
    count: Callable[[Lengths], int]
    """Frames of a clip."""
    shape: Shape
    side: int
    """Pixels of the square that it is shown."""
    features: Callable[[NDArray[np.uint8]], Tensor]
    """Features [n, D] on the CPU of frames [T, side, side, 3]."""


def plan_features(inputs: Mapping[str, Input], stage: str, config: ClipConfig, recipe_id: str) -> pa.Table:
    """The rows of a stage."""
    return plan_clips(inputs, MEDIA_FEATURES, stage, config, lambda _row, _lengths: {"recipe_id": recipe_id})


def encode_frames(stage: str, config: ClipConfig, env: Env, eye: Eye) -> Halves:
    """What computes the rows of a stage; torch is given one thread before."""
    decoder, (stored, _) = grid_decoder(env.limits), config.types_on(env.device)

    def load(table: pa.Table) -> tuple[list[Row], dict[str, NDArray[np.uint8]]]:
        frames: dict[str, NDArray[np.uint8]] = {}

        def read(row: Row) -> Row:
            count = eye.count(clip_lengths(row, config.window_s))
            frames[row["clip_id"]] = grid_frames(decoder, row, env, eye.fps, count, eye.shape, eye.side)
            return {}

        return map_rows(table, _PLANNED, stage, read).to_pylist(), frames

    def compute(found: tuple[list[Row], dict[str, NDArray[np.uint8]]]) -> pa.Table:
        rows, frames = found
        features = {name: eye.features(pixels) for name, pixels in frames.items()}
        return to_table((_packed(row, features.get(row["clip_id"]), stage, stored) for row in rows), MEDIA_FEATURES)

    return Halves(load, compute)


def _packed(row: Row, features: Tensor | None, stage: str, stored: DType) -> Row:
    if features is None:
        return row
    if not bool(features.isfinite().all()):
        detail = "the network returned values that are not finite"
        return row | status_not_ok(stage, Status.QUARANTINED, Reason.NOT_FINITE, detail)
    packed = pack(features, stored)
    return row | {"feature_bytes": packed.data, "feature_shape": packed.shape, "feature_dtype": packed.dtype}


def report_features(rows: ds.Dataset, _config: Any, out: Path) -> Report:
    """Write the index; ValueError if there is nothing in it."""
    if not rows.count_rows(filter=pc.field("status") == Status.OK):
        raise ValueError(f"no clip is left to encode. {set_aside(iterate(rows.to_table(columns=[*STATUS_COLUMNS])))}")
    write_index(out, FEATURES)
    return Report()
