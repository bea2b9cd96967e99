"""Scores of clips by chosen scorers: quality of the picture, motion of the camera.

Rows in: probed clips. Rows out: the same ids with a number in each column of the scorers that are on. A clip that does
not decode is quarantined. Frames are decoded once for all scorers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from curation.decode import READ_COLUMNS, clip_times
from curation.decoder import Decoder
from curation.media import localized
from curation.operator import Env, Input, Operator, Report, RowsFunction, map_rows, quantile_report
from curation.schema import STATUS_COLUMNS, Reason, RowError, Status
from curation.score_columns import SCORERS, SCORES, columns_of
from lumina.config import Config

if TYPE_CHECKING:
    import pyarrow.dataset as ds


class QualityConfig(Config):
    """Sharpness, exposure, saturation, black bars, duplicate frames and interlacing combs. Needs no network."""

    short_side: int = Field(default=512, ge=32)
    """Pixels of the short side in which sharpness, exposure and saturation are measured; smaller clips stay as they
    are. Sharpness is of this scale: with another one its limits are others."""


class CameraConfig(Config):
    """Pan, zoom and shake. Needs no network."""

    short_side: int = Field(default=192, ge=32)
    """Pixels of the short side in which optical flow is estimated, at most."""
    interval_s: float = Field(default=0.05, gt=0)
    """Seconds between two frames that are compared, at least."""


class ScoresConfig(Config):
    """Which scorers look at the clips, and at what of them. A scorer that is null is off; `{}` switches it on."""

    quality: QualityConfig | None = None
    """Sharpness, exposure, saturation, black bars, duplicate frames, combs."""
    camera: CameraConfig | None = None
    """Pan, zoom, shake."""
    window_s: float = Field(default=4.0, gt=0, le=60)
    """Seconds of a long clip that are looked at, from its start on."""
    samples: int = Field(default=8, ge=1, le=64)
    """Frames of the window, evenly spaced, that are looked at by all that does not need every frame."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of those that are on."""
        return tuple(name for name in SCORERS if getattr(self, name) is not None)


def _plan(inputs: Mapping[str, Input], _config: ScoresConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows(["clip_id", *READ_COLUMNS, "fps", *STATUS_COLUMNS]).sort_by("clip_id")


def _make(config: ScoresConfig, env: Env) -> RowsFunction:
    decoder = Decoder(env.limits)

    def measure(row: dict[str, Any]) -> dict[str, Any]:
        # Neither OpenCV nor PyAV is for a plan.
        from curation.score_frames import found_in_frames, sampled

        start, times = row["span_start_s"] or 0.0, [0.0]
        if row["media"] != "image":
            window_s = min(row["duration_s"], config.window_s)
            times = clip_times(row, [index / row["fps"] for index in range(max(1, round(window_s * row["fps"])))])
        if not times:
            raise RowError(Reason.TOO_FEW_FRAMES, f"{row['duration_s']:.6g} s: no frame to score", Status.FILTERED)
        samples = sampled(len(times), config.samples)
        settings = {
            "media": row["media"],
            "track": row["track"],
            "times_s": [start + time for time in times],
            "samples": samples,
            "quality": config.quality and config.quality.model_dump(),
            "camera": config.camera and config.camera.model_dump(),
        }
        with localized(row["uri"], env.media_root, env.stores) as path:
            function = f"{found_in_frames.__module__}:{found_in_frames.__qualname__}"
            found: dict[str, Any] = decoder.whole_file(function, path, settings)
        return {**found, "frames_scored": len(samples)}

    return lambda table: map_rows(table, SCORES, SCORES_OPERATOR.name, measure)


def _report(dataset: ds.Dataset, config: ScoresConfig, _out: Path) -> Report:
    reports = [quantile_report(dataset, name).metrics for name in columns_of(config.scorers)]
    return Report({name: value for one in reports for name, value in one.items()})


SCORES_OPERATOR = Operator(
    name="scores",
    config=ScoresConfig,
    schema=SCORES,
    reads_media=True,
    # Decoders of lossy codecs round as the CPU's instructions do.
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    report=_report,
)
"""Reads the input `clips`, the output of `probe`."""
