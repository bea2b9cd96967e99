"""Probe: what each file is, after decoding it.

Rows in: clips. Rows out: the same, with what the container says and what the decoder delivers, and how its frames are
read again (`track`). Durations, rates and spans are by the film's own time stamps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from curation.decoder import Decoder
from curation.duplicates import copies_aside, with_copies
from curation.film_frames import Track
from curation.fitting import Fit
from curation.media import localized
from curation.operator import Env, Input, Operator, map_rows
from curation.schema import INGEST, PROBE, STATUS_COLUMNS, Reason, RowError
from curation.video_files import Frames
from lumina.config import Config
from lumina.frame_times import times_within

READ_COLUMNS = ("uri", "media", "track", "span_start_s", "duration_s")
"""Columns of a probed row that reading its frames needs."""


class ProbeConfig(Config):
    """How files are probed: there is nothing to choose."""


def clip_times(row: Mapping[str, Any], times_s: Iterable[float]) -> list[float]:
    """Those of the ascending `times_s`, seconds from a probed clip's start, at which it shows a frame of its own.

    An image shows its one picture at each.
    """
    if row["media"] == "image":
        return list(times_s)
    return times_within(times_s, row["duration_s"], Track.parse(row["track"]).interval_s)


def frames_at(
    decoder: Decoder, row: Mapping[str, Any], env: Env, times_s: Sequence[float], fit: Fit | None = None
) -> Frames:
    """The frames that a probed clip shows at the ascending `times_s`, seconds from its start, each fitted.

    Stamps are seconds from the film's first frame. RowError if they cannot be had.
    """
    start = row["span_start_s"] or 0.0
    with localized(row["uri"], env.media_root, env.stores) as path:
        return decoder.frames(path, row["media"], row["track"], [start + time for time in times_s], fit)


def _plan(inputs: Mapping[str, Input], _config: ProbeConfig, _env: Env) -> pa.Table:
    return with_copies(inputs["clips"].rows()).sort_by("clip_id")


def _make(_config: ProbeConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    decoder = Decoder(env.limits)

    def look(row: dict[str, Any]) -> dict[str, Any]:
        with localized(row["uri"], env.media_root, env.stores) as path:
            found = asdict(decoder.probe(path, row["media"], row["span_start_s"], row["span_end_s"]))
        if not all(math.isfinite(found[name] or 0) for name in ("fps", "duration_s")):
            raise RowError(Reason.DECODE_ERROR, f"impossible frame rate {found['fps']}")
        return found

    return lambda table: map_rows(table, PROBE, PROBE_OPERATOR.name, copies_aside(look))


PROBE_OPERATOR = Operator(
    name="probe",
    config=ProbeConfig,
    schema=PROBE,
    reads_media=True,
    inputs=("clips",),
    plan=_plan,
    map=_make,
    # A span is looked at by itself.
    passthrough_columns=tuple(
        name for name in INGEST.names if name not in ("clip_id", "media", "span_start_s", "span_end_s", *STATUS_COLUMNS)
    ),
)
"""Reads the input `clips`: the output of `ingest`."""
