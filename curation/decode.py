"""Probe: what each file is, and which decoder reads it.

Rows in: clips. Rows out: the same, with what the container says and what a decoder delivers. The decoder that worked is
recorded per row, and later stages use that one: two backends may round colours differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.decoder import Decoder
from curation.duplicates import copies_aside, with_copies
from curation.media import localized
from curation.operator import Env, Input, Layout, Operator, map_rows
from curation.schema import INGEST, PROBE, STATUS_COLUMNS, Reason, RowError
from lumina.config import Config
from lumina.frame_times import pick_frames


class ProbeConfig(Config):
    """How files are probed."""

    decoder: Literal["decord", "pyav"] = "decord"
    """Backend to try first; `decord` falls back to PyAV where it fails, or sees another video than PyAV does."""


def frames_at(
    decoder: Decoder, uri: str, media_root: str, media: str, backend: str, indices: Sequence[int]
) -> NDArray[np.uint8]:
    """`decode_frames` of a URI, in the child process of `decoder`."""
    with localized(uri, media_root) as path:
        return decoder.frames(path, media, backend, indices)


def span_end(row: Mapping[str, Any]) -> int:
    """Index behind the last frame of a probed clip's span."""
    end: int = row["frames_decodable"]
    return end if row["span_end_s"] is None else min(end, round(row["span_end_s"] * row["fps"]))


def pick_in_span(row: Mapping[str, Any], times_s: Iterable[float]) -> list[int]:
    """`lumina.frame_times.pick_frames` of a probed clip at seconds from the start of its span."""
    start = row["span_start_s"] or 0.0
    return pick_frames([start + time for time in times_s], row["fps"], span_end(row))


def _plan(inputs: Mapping[str, Input], _config: ProbeConfig, _env: Env) -> pa.Table:
    return with_copies(inputs["clips"].rows()).sort_by("clip_id")


def _make(config: ProbeConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    decoder = Decoder(env.limits)

    def look(row: dict[str, Any]) -> dict[str, Any]:
        with localized(row["uri"], env.media_root) as path:
            found = asdict(decoder.probe(path, row["media"], config.decoder))
        if not all(math.isfinite(found[name] or 0) for name in ("fps", "duration_s")):
            raise RowError(Reason.DECODE_ERROR, f"impossible frame rate {found['fps']}")
        return found

    return lambda table: map_rows(table, PROBE, PROBE_OPERATOR.name, copies_aside(look))


PROBE_OPERATOR = Operator(
    name="probe",
    config=ProbeConfig,
    schema=PROBE,
    inputs=("clips",),
    plan=_plan,
    make=_make,
    carries=tuple(name for name in INGEST.names if name not in ("clip_id", "media", *STATUS_COLUMNS)),
    layout=lambda _config: Layout(rows_per_file=1024),
)
"""Reads the input `clips`: the output of `ingest`."""
