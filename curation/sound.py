"""Sound: what audio track each clip has, how loud it is and how much of it is silence.

Rows in: probed clips. Rows out: the same ids with what was measured. A clip without an audio track, with one in which
nothing is heard, or with one that fills too little of it is filtered; one whose track is broken is quarantined. Images
have no sound and stay ok.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.audio import MOST_WINDOW_S, SAMPLE_RATE, AudioTrack, clip_audio
from curation.decode import READ_COLUMNS
from curation.decoder import Decoder
from curation.operator import Env, Input, Operator, Report, RowsFunction, map_rows, quantile_report
from curation.schema import SOUND, STATUS_COLUMNS, Reason, RowError, Status, status_not_ok
from lumina.config import Config

if TYPE_CHECKING:
    import pyarrow.dataset as ds

FLOOR_DBFS = -120.0
"""The level of what is quieter, digital silence too."""
_BLOCK = SAMPLE_RATE // 50
"""Samples of the 20 ms of which each is silent or not."""


class SoundConfig(Config):
    """What of a clip is listened to, and when there is nothing to hear."""

    window_s: float = Field(default=8.0, gt=0, le=MOST_WINDOW_S)
    """Seconds of a long clip that are listened to, from its start on: the paper cuts clips to 8 s."""
    silent_dbfs: float = Field(default=-60.0, ge=FLOOR_DBFS, le=0)
    """Level in dB of full scale below which 20 ms count as silence: a clip that is silent throughout is filtered."""
    min_cover: float = Field(default=0.9, ge=0, le=1)
    """Share of the window that the audio track has to fill; 0 is any."""


def dbfs(level: float) -> float:
    """A level, of which 1 is full scale, in dB; no lower than `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20 * math.log10(level)) if level > 0 else FLOOR_DBFS


def loudness(waveform: NDArray[np.float32], silent_dbfs: float) -> dict[str, float]:
    """RMS and peak in dB of full scale, and the share of its 20 ms blocks whose RMS is below `silent_dbfs`."""
    samples = waveform.astype(np.float64)
    if not len(samples):
        return {"audio_rms_dbfs": FLOOR_DBFS, "audio_peak_dbfs": FLOOR_DBFS, "audio_silence": 1.0}
    starts = np.arange(0, len(samples), _BLOCK)
    power = np.add.reduceat(np.square(samples), starts) / np.diff(starts, append=len(samples))
    return {
        "audio_rms_dbfs": dbfs(float(np.sqrt(np.square(samples).mean()))),
        "audio_peak_dbfs": dbfs(float(np.abs(samples).max())),
        "audio_silence": float((power < 10 ** (silent_dbfs / 10)).mean()),
    }


def _plan(inputs: Mapping[str, Input], _config: SoundConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows(["clip_id", *READ_COLUMNS, *STATUS_COLUMNS]).sort_by("clip_id")


def _make(config: SoundConfig, env: Env) -> RowsFunction:
    decoder = Decoder(env.limits)

    def listen(row: dict[str, Any]) -> dict[str, Any]:
        if row["media"] == "image":
            return {"has_audio": False}
        window_s = min(row["duration_s"], config.window_s)
        try:
            heard = clip_audio(decoder, row, env, window_s)
        except RowError as error:
            if error.reason != Reason.NO_AUDIO_STREAM:
                raise
            return {"has_audio": False, **_aside(error.reason, str(error))}
        found = _told(heard.track) | loudness(heard.waveform, config.silent_dbfs)
        found |= {"has_audio": True, "audio_window_s": window_s, "audio_cover": heard.cover}
        if heard.cover < config.min_cover:
            detail = f"it fills {heard.cover:.0%} of {window_s:.6g} s; sound.min_cover is {config.min_cover:.0%}"
            return found | _aside(Reason.SHORT_AUDIO, detail)
        if found["audio_silence"] == 1:
            detail = f"its peak is at {found['audio_peak_dbfs']:.0f} dBFS; silent_dbfs is {config.silent_dbfs:g}"
            return found | _aside(Reason.SILENT, detail)
        return found

    return lambda table: map_rows(table, SOUND, SOUND_OPERATOR.name, listen)


def _told(track: AudioTrack) -> dict[str, Any]:
    return {
        "audio_codec": track.codec,
        "audio_rate": track.rate,
        "audio_channels": track.channels,
        "audio_layout": track.layout,
        "audio_tracks": track.tracks,
        "audio_start_s": track.start_s,
        "audio_duration_s": track.end_s - track.start_s,
    }


def _aside(reason: Reason, detail: str) -> dict[str, str | None]:
    """The status of a row that keeps what was measured."""
    return status_not_ok(SOUND_OPERATOR.name, Status.FILTERED, reason, detail)


def _report(dataset: ds.Dataset, _config: SoundConfig, _out: Path) -> Report:
    return quantile_report(dataset, "audio_rms_dbfs")


SOUND_OPERATOR = Operator(
    name="sound",
    config=SoundConfig,
    schema=SOUND,
    reads_media=True,
    depends=("scipy",),
    # Decoders of lossy codecs round as the CPU's instructions do.
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    passthrough_columns=("uri",),
    report=_report,
)
"""Reads the input `clips`: the output of `probe`."""
