"""Audio track of a video file: a mono waveform, encoded with PyAV beside the frames, or as a WAV."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lumina.files import ffmpeg_path

AudioCodec = Literal["aac", "flac", "alac"]
_BITS_PER_SAMPLE = 4
"""Of AAC: 64 kbit/s at 16 kHz."""


@dataclass(frozen=True)
class AudioTrack:
    """What is heard beside frames, from the first of them on."""

    waveform: NDArray[np.float32]
    """[N], mono, in -1..1."""
    rate: int = 16000
    """Samples per second."""
    codec: AudioCodec = "aac"
    """`aac` plays everywhere; `flac` keeps 16 bits of each sample, `alac` 24."""

    def __post_init__(self) -> None:
        """ValueError for a waveform of another shape, type or range."""
        wave = self.waveform
        if wave.ndim != 1 or wave.dtype != np.float32 or not len(wave):
            raise ValueError(f"a waveform must be float32 [N] with N >= 1, got {wave.dtype} {wave.shape}")
        peak = float(np.abs(wave).max())
        if not peak <= 1:
            raise ValueError(f"a waveform must be in -1..1, but its peak is {peak:g}: scale it first")


class AudioEncoder:
    """Encodes a track into an open container, bit for bit the same with one build of the libraries."""

    def __init__(self, container: Any, track: AudioTrack) -> None:
        self._track, self._done = track, 0
        self._stream = container.add_stream(
            track.codec, rate=track.rate, layout="mono", options={"threads": "1", "flags": "+bitexact"}
        )
        if track.codec == "aac":
            self._stream.bit_rate = _BITS_PER_SAMPLE * track.rate

    def until(self, time_s: float) -> Iterator[Any]:
        """Packets of what is heard before a time."""
        yield from self._encoded(min(len(self._track.waveform), round(time_s * self._track.rate)))

    def rest(self) -> Iterator[Any]:
        """The packets that are left."""
        yield from self._encoded(len(self._track.waveform))
        yield from self._stream.encode(None)

    def _encoded(self, stop: int) -> Iterator[Any]:
        import av

        if stop <= self._done:
            return
        samples = np.ascontiguousarray(self._track.waveform[None, self._done : stop])
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = self._track.rate, Fraction(1, self._track.rate)
        frame.pts, self._done = self._done, stop
        yield from self._stream.encode(frame)


def write_wav(path: Path, track: AudioTrack) -> None:
    """Write a track alone, as 16-bit PCM."""
    samples = np.clip(np.trunc(track.waveform.astype(np.float64) * 32768), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, track.rate, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


def add_track(film: bytes, path: str | Path, track: AudioTrack) -> None:
    """Write an MP4 of the packets of another one that has a video stream alone, and a track that begins with it.

    The same input gives the same bytes with one build of the libraries.
    """
    import av

    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with (
        av.open(io.BytesIO(film), format="mp4") as source,
        av.open(ffmpeg_path(path), "w", format="mp4", options=options) as container,
    ):
        [copied] = source.streams.video
        stream = container.add_stream_from_template(copied, opaque=True)
        stream.time_base = copied.time_base
        encoder = AudioEncoder(container, track)
        for packet in source.demux(copied):
            if not packet.size:
                continue
            until_s = float(packet.dts * packet.time_base)
            packet.stream = stream
            container.mux(packet)
            container.mux(list(encoder.until(max(until_s, 0))))
        container.mux(list(encoder.rest()))
