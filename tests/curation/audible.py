"""Films with sound: frames that carry their number, and a track of clicks at known times, in any codec and layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.curation.numbered import picture

CLICKS = (0.25, 0.7, 1.125, 1.6)


def noise(seed: int, count: int) -> NDArray[np.float64]:
    """[count] of standard deviation 0.3."""
    return 0.3 * np.random.Generator(np.random.Philox(seed)).standard_normal(count)


def clicks(rate: int, duration_s: float, times_s: Sequence[float] = CLICKS, level: float = 0.6) -> NDArray[np.float64]:
    """[N]: at each time a short burst of 1 kHz whose envelope is highest there."""
    at = np.arange(round(duration_s * rate)) / rate
    wave = np.zeros_like(at)
    for time in times_s:
        wave += level * np.exp(-(((at - time) / 0.004) ** 2)) * np.cos(2 * np.pi * 1000 * (at - time))
    return wave


def found_clicks(waveform: NDArray[np.float32], rate: int = 16000, above: float = 0.15) -> list[float]:
    """The times of the clicks in a waveform: the middle of each burst's energy."""
    loud = np.flatnonzero(np.abs(waveform) > above)
    if not len(loud):
        return []
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > rate // 20) + 1)
    return [float((group * np.abs(waveform[group])).sum() / np.abs(waveform[group]).sum() / rate) for group in groups]


@dataclass(frozen=True)
class Heard:
    """What to write."""

    wave: NDArray[np.float64] | None = None
    """[N] or [C, N] in -1..1; None: no audio track."""
    rate: int = 48000
    codec: str = "pcm_s16le"
    layout: str = "mono"
    sample_format: str | None = None
    """None: the encoder's first."""
    audio_start_s: Fraction = Fraction(0)
    video_start_s: Fraction = Fraction(0)
    stamps: Sequence[Fraction] = tuple(Fraction(index, 25) for index in range(50))
    """Seconds at which each frame begins, from the first."""
    gaps: Sequence[tuple[float, float]] = ()
    """Spans in seconds from the start of the track that are left out."""
    vcodec: str = "libx264"


def write(path: Path, film: Heard) -> Path:
    """Write a film; frames and sound lie side by side in it."""
    base = Fraction(1, 1000)
    with path.open("wb+") as file, av.open(file, "w", format=_MUXERS[path.suffix]) as container:
        video = container.add_stream(
            film.vcodec, rate=25, options={"preset": "ultrafast"} if "264" in film.vcodec else {}
        )
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        video.max_b_frames = 0
        stamped = film.vcodec == "libx264"
        video.codec_context.time_base = base if stamped else Fraction(1, 25)
        audio = None
        if film.wave is not None:
            audio = container.add_stream(film.codec, rate=film.rate, layout=film.layout)
            if film.sample_format:
                audio.format = film.sample_format
        packets = []
        for number, stamp in enumerate(film.stamps):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.time_base = video.codec_context.time_base
            frame.pts = round((film.video_start_s + stamp) / frame.time_base)
            packets += video.encode(frame)
        packets += video.encode(None)
        if audio is not None and film.wave is not None:
            for frame in _frames(film, audio):
                packets += audio.encode(frame)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def tear(path: Path) -> Path:
    """Make noise of every third packet of a track of FLAC; the frames stay as they are."""
    data = bytearray(path.read_bytes())
    places = [match.start() for match in re.finditer(rb"\xff\xf8", bytes(data))]
    rng = np.random.Generator(np.random.Philox(4))
    for place in places[1:-1:3]:
        data[place : place + 400] = rng.bytes(400)
    path.write_bytes(data)
    return path


_MUXERS = {
    ".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts",
    ".wav": "wav", ".flv": "flv", ".mpg": "dvd",
}  # fmt: skip


def _frames(film: Heard, audio: av.AudioStream) -> list[av.AudioFrame]:
    assert film.wave is not None
    format = audio.codec_context.format
    wave = np.atleast_2d(film.wave)
    channels = audio.codec_context.layout.nb_channels
    wave = np.repeat(wave, channels, axis=0) if len(wave) == 1 else wave
    size = audio.codec_context.frame_size or 1024
    keep = np.ones(wave.shape[1], bool)
    for start, stop in film.gaps:
        keep[round(start * film.rate) : round(stop * film.rate)] = False
    frames = []
    for first in range(0, wave.shape[1], size):
        if not keep[first]:
            continue
        part = wave[:, first : first + size]
        name = format.name.removesuffix("p")
        if name in ("flt", "dbl"):
            data = part.astype(np.float32 if name == "flt" else np.float64)
        elif name == "u8":
            data = np.clip(np.rint(part * 128 + 128), 0, 255).astype(np.uint8)
        else:
            top = 2.0 ** (8 * format.bytes - 1)
            data = np.clip(np.rint(part * top), -top, top - 1).astype(f"i{format.bytes}")
        data = np.ascontiguousarray(data if format.is_planar else data.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(data, format=format.name, layout=film.layout)
        frame.sample_rate, frame.time_base = film.rate, Fraction(1, film.rate)
        frame.pts = first + round(film.audio_start_s * film.rate)
        frames.append(frame)
    return frames
