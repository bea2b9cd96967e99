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

from curation.audio import MOST_WINDOW_S, SAMPLE_RATE, AudioTrack, ClipAudio, clip_audio
from curation.decode import READ_COLUMNS
from curation.decoder import Decoder
from curation.operator import Env, Input, Operator, Report, RowsFunction, aside, map_rows, quantile_report
from curation.schema import SOUND, STATUS_COLUMNS, Reason, RowError, Status
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


def why_unheard(
    heard: ClipAudio, levels: Mapping[str, float], window_s: float, silent_dbfs: float, min_cover: float
) -> RowError | None:
    """Why a track is no sound of its clip: it fills too little of the window, or nothing is heard. None if it is.

    Args:
        heard: the track's part in the window.
        levels: its `loudness` with `silent_dbfs`.
        window_s: seconds of the window.
        silent_dbfs: as of `SoundConfig`.
        min_cover: as of `SoundConfig`.
    """
    if heard.cover < min_cover:
        detail = f"it fills {heard.cover:.0%} of {window_s:.6g} s; sound.min_cover is {min_cover:.0%}"
        return RowError(Reason.SHORT_AUDIO, detail, Status.FILTERED)
    if levels["audio_silence"] == 1:
        detail = f"its peak is at {levels['audio_peak_dbfs']:.0f} dBFS; silent_dbfs is {silent_dbfs:g}"
        return RowError(Reason.SILENT, detail, Status.FILTERED)
    return None


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
            return {"has_audio": False, **aside(SOUND_OPERATOR.name, error)}
        levels = loudness(heard.waveform, config.silent_dbfs)
        found = _told(heard.track) | levels
        found |= {"has_audio": True, "audio_window_s": window_s, "audio_cover": heard.cover}
        unheard = why_unheard(heard, levels, window_s, config.silent_dbfs, config.min_cover)
        # The row keeps what was measured.
        return found if unheard is None else found | aside(SOUND_OPERATOR.name, unheard)

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
