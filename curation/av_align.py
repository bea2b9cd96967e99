"""AV-Align: whether sounds begin when things move, of each clip, beside its chance level.

Rows in: probed clips. Rows out: the same ids with scores. A clip without an audio track, or of fewer than three frames,
is filtered; one that does not decode is quarantined. Images have no score and stay ok.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
from pydantic import Field

from curation.audio import MOST_WINDOW_S, clip_audio
from curation.decode import READ_COLUMNS, clip_times, frames_at
from curation.decoder import Decoder
from curation.fitting import Fit
from curation.operator import Env, Input, Operator, Report, RowsFunction, map_rows
from curation.schema import AV_ALIGN, STATUS_COLUMNS, Reason, RowError, Status
from curation.short_side import to_short_side
from lumina.config import Config

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_LEAST_FRAMES = 3
"""A peak has a frame on either side."""
_ONSET_RATE = 22_050
"""Samples per second at which the released code looks for onsets."""


class AVAlignConfig(Config):
    """How sound and motion are compared."""

    window_s: float = Field(default=8.0, gt=0, le=MOST_WINDOW_S)
    """Seconds of a long clip that are compared, from its start on: the paper cuts clips to 8 s."""
    most_fps: float = Field(default=30.0, gt=0)
    """Frames per second at most. A sound and a motion meet within one frame, so the score depends on it: each clip is
    read at its own rate up to this one."""
    short_side: int = Field(default=256, ge=32)
    """Pixels of the shorter side in which motion is measured: peaks below 0.1 pixels are none."""


def _plan(inputs: Mapping[str, Input], _config: AVAlignConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows(["clip_id", *READ_COLUMNS, "fps", *STATUS_COLUMNS]).sort_by("clip_id")


def _make(config: AVAlignConfig, env: Env) -> RowsFunction:
    import cv2

    # One thread: workers are the parallelism.
    cv2.setNumThreads(1)
    decoder, fit = Decoder(env.limits), Fit(to_short_side, (config.short_side, config.short_side))

    def score(row: dict[str, Any]) -> dict[str, Any]:
        if row["media"] == "image":
            return {}
        fps = min(row["fps"], config.most_fps)
        window_s = min(row["duration_s"], config.window_s)
        times = clip_times(row, [index / fps for index in range(round(window_s * fps))])
        if len(times) < _LEAST_FRAMES:
            detail = f"{window_s:.6g} s at {fps:.6g} fps: motion peaks need {_LEAST_FRAMES} frames"
            raise RowError(Reason.TOO_FEW_FRAMES, detail, Status.FILTERED)
        # The track first: most clips that leave do so for the lack of one.
        heard = clip_audio(decoder, row, env, window_s, _ONSET_RATE).waveform
        return _scores(heard, frames_at(decoder, row, env, times, fit).pixels, fps, window_s)

    return lambda table: map_rows(table, AV_ALIGN, AV_ALIGN_OPERATOR.name, score)


def _scores(waveform: Any, frames: Any, fps: float, duration_s: float) -> dict[str, Any]:
    import torch

    from lumina.video_to_audio.av_align import align
    from lumina.video_to_audio.motion_peaks import Version, flow_trajectory, peak_times
    from lumina.video_to_audio.onsets import onset_times

    onsets = onset_times(torch.from_numpy(waveform.copy()), _ONSET_RATE)
    motion = flow_trajectory(frames)
    found: dict[str, Any] = {"av_align_fps": fps, "audio_onsets": len(onsets), "onset_times_s": onsets}
    for version in get_args(Version):
        peaks = peak_times(motion, fps, version)
        one = align(onsets, peaks, fps, duration_s, version)
        name = "" if version == "v2025" else f"_{version}"
        found |= {f"av_align{name}": one.score, f"av_align{name}_chance": one.chance}
        found |= {f"av_align{name}_excess": one.excess, f"motion_peaks{name}": one.peaks}
        if version == "v2025":
            found["peak_times_s"] = peaks
    return found


def _report(dataset: ds.Dataset, _config: AVAlignConfig, _out: Path) -> Report:
    import pyarrow.compute as pc

    names = ("av_align", "av_align_chance", "av_align_excess")
    table = dataset.to_table(columns=[*names])
    if not len(table["av_align"].drop_null()):
        return Report()
    return Report({f"{name}_mean": pc.mean(table[name]).as_py() for name in names})


AV_ALIGN_OPERATOR = Operator(
    name="av_align",
    config=AVAlignConfig,
    schema=AV_ALIGN,
    reads_media=True,
    depends=("scipy", "torch"),
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    report=_report,
)
"""Reads the input `clips`: the output of `probe`."""
