"""Stage `frame_hashes`: perceptual hashes and thumbnails of the first two seconds of each clip.

Rows in: probed clips. Rows out: the same ids with hashes. A clip that does not decode is quarantined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from curation.decode import READ_COLUMNS, clip_times, frames_at
from curation.decoder import Decoder
from curation.fitting import Fit
from curation.frame_hashes import HASHED, STEP_S, TIMES, hash_frames, squash
from curation.operator import Env, Input, Operator, RowsFunction, map_rows
from curation.schema import STATUS_COLUMNS, Reason, RowError
from lumina.config import Config

_FITTED = 96

FRAME_HASHES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source", pa.string()),
        ("media", pa.string()),
        ("hashes", pa.binary(8 * len(HASHED))),
        ("thumbnails", pa.binary()),
        ("inside_bars", pa.float32()),
        *((name, pa.string()) for name in STATUS_COLUMNS),
    ]
)
"""See `curation.frame_hashes.HashedFrames`: `hashes` as little-endian uint64, `thumbnails` as uint8."""


class FrameHashesConfig(Config):
    """How frames are hashed: there is nothing to choose."""


def _plan(inputs: Mapping[str, Input], _config: FrameHashesConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows(["clip_id", "source", *READ_COLUMNS, *STATUS_COLUMNS]).sort_by("clip_id")


def _make(_config: FrameHashesConfig, env: Env) -> RowsFunction:
    decoder, fit = Decoder(env.limits), Fit(squash, (_FITTED, _FITTED))

    def look(row: dict[str, Any]) -> dict[str, Any]:
        times = [0.0] if row["media"] == "image" else clip_times(row, [step * STEP_S for step in range(TIMES)])
        if not times:
            raise RowError(Reason.TOO_FEW_FRAMES, "it shows no frame")
        found = hash_frames(frames_at(decoder, row, env, times, fit).pixels)
        return {
            "hashes": found.hashes.astype("<u8").tobytes(),
            "thumbnails": found.thumbnails.tobytes(),
            "inside_bars": found.inside_bars,
        }

    return lambda table: map_rows(table, FRAME_HASHES, FRAME_HASHES_OPERATOR.name, look)


FRAME_HASHES_OPERATOR = Operator(
    name="frame_hashes",
    config=FrameHashesConfig,
    schema=FRAME_HASHES,
    reads_media=True,
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri", "source"),
)
"""Reads the input `clips`: the output of `probe`."""
