"""Motion: how much each clip moves, by optical flow between frames half a second apart.

Rows in: probed clips. Rows out: the same ids with scores. Images have no score and stay ok; a clip in which no two
samples fall is filtered. A clip that does not decode is quarantined: it is never "static".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from curation.decode import READ_COLUMNS, clip_times, frames_at
from curation.decoder import Decoder
from curation.fitting import Fit
from curation.operator import Env, Halves, Input, Operator, Report, RowsFunction, map_rows, quantile_report
from curation.schema import MOTION, STATUS_COLUMNS, Reason, RowError, Status, to_table
from curation.video_files import Frames
from lumina.config import Config
from lumina.motion import DISFlow, MotionScore, OpticalFlowEstimator, UniMatchFlow, prepared_scores

if TYPE_CHECKING:
    import pyarrow.dataset as ds


class MotionConfig(Config):
    """How motion is scored. Scores are pixels of the resized frame per interval: they scale with its size."""

    estimator: Literal["unimatch", "dis"] = "unimatch"
    """Optical-flow estimator: UniMatch (the network that `weights.unimatch` names), or OpenCV's DIS."""
    height: int = Field(default=320, ge=16)
    """Height at which flow is estimated; UniMatch needs a multiple of 32, the small network that is shipped of 8."""
    width: int = Field(default=576, ge=16)
    """Width at which flow is estimated, as `height`."""
    interval_s: float = Field(default=0.5, gt=0)
    """Seconds between two samples."""
    samples: int = Field(default=9, ge=2)
    """Samples at most, from the first frame of the span on: 9 at 0.5 s cover 4 seconds."""
    window_s: float | None = Field(default=None, gt=0)
    """Seconds of a long clip that are looked at; None: as far as the samples go. Training sees `num_frames / fps` of
    the latents; a score of what comes after would be of other content."""
    batch_pairs: int = Field(default=8, ge=1)
    """Pairs of a clip estimated together."""

    @property
    def times_s(self) -> list[float]:
        """Seconds from the start of the span at which a clip is sampled."""
        times = [step * self.interval_s for step in range(self.samples)]
        return [time for time in times if self.window_s is None or time <= self.window_s]

    @model_validator(mode="after")
    def _holds_a_pair(self) -> MotionConfig:
        if len(self.times_s) < 2:
            raise ValueError(f"window_s {self.window_s} holds no two samples {self.interval_s} s apart")
        return self


def build_estimator(config: MotionConfig, env: Env) -> OpticalFlowEstimator:
    """The estimator that `config` names."""
    if config.estimator == "dis":
        return DISFlow()
    return UniMatchFlow.from_pretrained(Path(env.weights["unimatch"]), env.device)


def _plan(inputs: Mapping[str, Input], _config: MotionConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows(["clip_id", *READ_COLUMNS, *STATUS_COLUMNS]).sort_by("clip_id")


def _make(config: MotionConfig, env: Env) -> RowsFunction:
    estimator, decoder = build_estimator(config, env), Decoder(env.limits)
    fit = Fit(estimator.prepare, (config.height, config.width))

    def load(row: dict[str, Any], frames: dict[str, Frames]) -> dict[str, Any]:
        if row["media"] == "image":
            return {}
        times = clip_times(row, config.times_s)
        if len(times) < 2:
            detail = f"{row['duration_s']:.6g} s: no two samples {config.interval_s} s apart"
            raise RowError(Reason.TOO_FEW_FRAMES, detail, Status.FILTERED)
        frames[row["clip_id"]] = frames_at(decoder, row, env, times, fit)
        return {}

    def load_all(table: pa.Table) -> tuple[pa.Table, dict[str, Frames]]:
        frames: dict[str, Frames] = {}
        return map_rows(table, table.schema, MOTION_OPERATOR.name, partial(load, frames=frames)), frames

    def score(found_frames: tuple[pa.Table, dict[str, Frames]]) -> pa.Table:
        loaded, frames = found_frames
        images = [one.pixels for one in frames.values()]
        turned = [height > width for width, height in (one.shown for one in frames.values())]
        found = prepared_scores(images, turned, estimator, config.batch_pairs)
        columns = {
            name: _columns(one, config, estimator.name) | {"samples_shown": len(set(frames[name].stamps_s))}
            for name, one in zip(frames, found, strict=True)
        }
        return to_table((row | columns.get(row["clip_id"], {}) for row in loaded.to_pylist()), MOTION)

    return Halves(load_all, score)


def _columns(found: MotionScore, config: MotionConfig, estimator: str) -> dict[str, Any]:
    return {
        "flow_abs_mean": found.flow_abs_mean,
        "flow_mag_mean": found.flow_mag_mean,
        "flow_mag_p90": found.flow_mag_p90,
        "pair_scores": found.pair_scores,
        "sample_times_s": config.times_s[: len(found.pair_scores) + 1],
        "input_hw": [config.height, config.width],
        "transposed": found.transposed,
        "estimator": estimator,
    }


def _report(dataset: ds.Dataset, _config: MotionConfig, _out: Path) -> Report:
    return quantile_report(dataset, "flow_abs_mean")


MOTION_OPERATOR = Operator(
    name="motion",
    config=MotionConfig,
    schema=MOTION,
    reads_media=True,
    weights=("unimatch",),
    depends=("torch",),
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    runs_network=lambda config: config.estimator == "unimatch",
    report=_report,
)
"""Reads the input `clips`, the output of `probe`; weights `unimatch` where the estimator is UniMatch."""
