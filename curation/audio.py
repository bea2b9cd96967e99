"""Audio decoding: the sound of a clip as a mono waveform on its film's clock, whatever its codec, rate and channels.

Sample 0 is what is heard when the clip's first frame is shown. Before a track, behind it and in gaps of its time stamps
there is silence. It runs in the decoding process, as everything that opens a file from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.clock import Clock
from curation.containers import opened
from curation.decoder import Decoder
from curation.film_frames import Track, check_machine, decoded, row_errors, stream_of
from curation.media import localized
from curation.operator import Env
from curation.schema import Reason, RowError, Status

SAMPLE_RATE = 16000
"""Samples per second of a waveform, where nobody asks for another rate: AudioLDM's."""
MOST_WINDOW_S = 120.0
"""Seconds of sound at most that are held in memory at once."""
_MOST_RATE = 768_000
_PREROLL_S = 2
"""Decoding begins so much earlier: codecs need some packets to find their feet."""
_JITTER_S = Fraction(20, 1000)
"""Stamps that are off by less are rounded ones, not gaps."""
_HALF, _SIDE = 0.5, math.sqrt(0.5)
_WEIGHTS = {"FC": 1.0, "FL": _SIDE, "FR": _SIDE, "LFE": 0.0, "LFE2": 0.0}
"""Of a speaker in the mono mix, by ITU-R BS.775; those that surround the listener have a half."""


@dataclass(frozen=True)
class AudioTrack:
    """What a file says of the audio track that is played by default."""

    codec: str
    rate: int
    """Samples per second, as stored."""
    channels: int
    layout: str
    """Of the channels, by FFmpeg's name: `stereo`, `5.1`."""
    tracks: int
    """Number of audio tracks in the file."""
    start_s: float
    """When it begins, in seconds from the film's first frame: negative where it is heard before that."""
    end_s: float
    """When it ends, on the same clock."""


@dataclass(frozen=True)
class ClipAudio:
    """The sound of a clip."""

    waveform: NDArray[np.float32]
    """[N], mono, in -1..1, at the rate that was asked for."""
    cover: float
    """Share of it that the track fills, in [0, 1]; the rest is silence."""
    track: AudioTrack


def clip_audio(
    decoder: Decoder, row: Mapping[str, Any], env: Env, window_s: float = MOST_WINDOW_S, rate: int = SAMPLE_RATE
) -> ClipAudio:
    """The sound of the first `window_s` seconds of a probed clip, at `rate` samples per second.

    Raises:
        RowError: `no_audio_stream` (filtered); `decode_error` or `not_finite` for a track that is broken.
    """
    settings = {
        "track": row["track"],
        "start_s": row["span_start_s"] or 0.0,
        "duration_s": min(row["duration_s"], window_s, MOST_WINDOW_S),
        "rate": rate,
    }
    with localized(row["uri"], env.media_root, env.stores) as path:
        found, waveform = decoder.array("curation.audio:audio_of", path, settings)
    return ClipAudio(waveform, found["cover"], AudioTrack(**found["track"]))


def audio_of(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """`read_audio`, for the decoding process."""
    times = settings["start_s"], settings["duration_s"]
    heard = read_audio(path, Track.parse(settings["track"]), *times, settings["rate"])
    return {"cover": heard.cover, "track": asdict(heard.track)}, heard.waveform


def read_audio(path: Path, film: Track, start_s: float, duration_s: float, rate: int = SAMPLE_RATE) -> ClipAudio:
    """The sound of a film from `start_s` seconds after its first frame on, at `rate` samples per second.

    Raises:
        RowError: as of `clip_audio`.
    """
    with row_errors():
        begin = _first_frame(path, film) + Fraction(start_s)
        with opened(path) as container:
            stream = _played(container)
            packets = _Packets(container, stream, begin - _PREROLL_S, begin + Fraction(duration_s) + 1)
            window = _Window(stream.codec_context.sample_rate, begin, round(duration_s * rate), rate)
            first = next(packets.wanted, None)
            for frame in () if first is None else decoded(stream, chain([first], packets.wanted)):
                window.add(frame)
            track = _track(container, stream, packets, begin - Fraction(start_s))
        return ClipAudio(window.resampled(), window.cover, track)


def _first_frame(path: Path, film: Track) -> Fraction:
    """When the first frame is shown, in seconds on the file's clock."""
    with opened(path) as container:
        stream = stream_of(container, film.stream, seen=False)
        dts: list[Fraction] = []

        def packets() -> Iterator[Any]:
            for packet in container.demux(stream):
                if packet.dts is not None:
                    dts.append(packet.dts * packet.time_base)
                yield packet

        frame = next(decoded(stream, packets()))
        if frame.pts is not None and Clock.parse(film.clock).kind != "dts":
            return Fraction(frame.pts * frame.time_base)
        # AVI and ASF tell when a frame is decoded; the first is then shown.
        return dts[0] if dts else Fraction(0)


def _played(container: Any) -> Any:
    """The audio stream that is played by default, to be decoded in one thread."""
    from av.stream import Disposition

    streams = container.streams.audio
    if not streams:
        raise RowError(Reason.NO_AUDIO_STREAM, "the file has no audio track", Status.FILTERED)
    stream = max(streams, key=lambda one: (bool(one.disposition & Disposition.default), -one.index))
    if stream.codec_context is None:
        raise RowError(Reason.DECODE_ERROR, "pyav: no decoder for the audio track")
    rate = stream.codec_context.sample_rate
    if not 0 < rate <= _MOST_RATE:
        raise RowError(Reason.DECODE_ERROR, f"a sample rate of {rate:,} Hz: up to {_MOST_RATE:,} are read")
    stream.codec_context.thread_count = 1
    return stream


class _Packets:
    """The packets of a stream between two times, and when all of them begin and end."""

    def __init__(self, container: Any, stream: Any, begin: Fraction, stop: Fraction) -> None:
        self.first: Fraction | None = None
        self.end: Fraction | None = None
        self.wanted = self._between(container, stream, begin, stop)

    def _between(self, container: Any, stream: Any, begin: Fraction, stop: Fraction) -> Iterator[Any]:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            at = packet.pts if packet.pts is not None else packet.dts
            if at is None:
                yield packet
                continue
            when = at * packet.time_base
            end = when + (packet.duration or 0) * packet.time_base
            self.first = when if self.first is None else min(self.first, when)
            self.end = end if self.end is None else max(self.end, end)
            if begin <= when <= stop:
                yield packet


def _track(container: Any, stream: Any, packets: _Packets, origin: Fraction) -> AudioTrack:
    context = stream.codec_context
    for _ in _rest(packets.wanted):
        pass
    stated = None if stream.start_time is None else stream.start_time * stream.time_base
    start = stated if stated is not None else packets.first if packets.first is not None else origin
    return AudioTrack(
        codec=context.codec.canonical_name,
        rate=context.sample_rate,
        channels=context.layout.nb_channels,
        layout=context.layout.name,
        tracks=len(container.streams.audio),
        start_s=float(start - origin),
        end_s=float((packets.end if packets.end is not None else start) - origin),
    )


def _rest(packets: Iterator[Any]) -> Iterator[Any]:
    """What is left of a file, as far as its container goes."""
    import av

    try:
        yield from packets
    except av.FFmpegError as error:
        check_machine(error)


class _Window:
    """The samples of a window at the track's own rate, put where their stamps say, and some on either side of it."""

    def __init__(self, rate: int, begin: Fraction, count: int, target: int) -> None:
        ratio = Fraction(target, rate)
        self._up, self._down = ratio.numerator, ratio.denominator
        # As many whole steps of both rates as the filter of the resampling looks back.
        steps = 0 if ratio == 1 else -(-(10 * max(self._up, self._down)) // (self._up * self._down)) + 1
        self._lead, self._lead_out, self._count = steps * self._down, steps * self._up, count
        self._inside = -(-count * self._down // self._up)
        self._rate, self._begin = rate, begin - Fraction(self._lead, rate)
        self._samples = np.zeros(self._inside + 2 * self._lead)
        self._filled = 0
        self._next: int | None = None

    def add(self, frame: Any) -> None:
        """Put a decoded frame (av.AudioFrame) where it is heard."""
        if frame.sample_rate != self._rate:
            detail = f"the sample rate changes from {self._rate} to {frame.sample_rate} Hz"
            raise RowError(Reason.DECODE_ERROR, detail)
        mono = _mono(frame)
        if not np.isfinite(mono).all():
            raise RowError(Reason.NOT_FINITE, "the sound holds values that are no numbers")
        at = self._position(frame)
        self._next = at + len(mono)
        low, high = max(at, 0), min(self._next, len(self._samples))
        if low < high:
            self._samples[low:high] = mono[low - at : high - at]
            self._filled += max(0, min(high, self._lead + self._inside) - max(low, self._lead))

    def _position(self, frame: Any) -> int:
        stamped = None
        if frame.pts is not None:
            stamped = round((frame.pts * frame.time_base - self._begin) * self._rate)
        if stamped is None and self._next is None:
            raise RowError(Reason.DECODE_ERROR, "the audio track does not say when it is heard")
        if stamped is None or (self._next is not None and abs(stamped - self._next) <= _JITTER_S * self._rate):
            return self._next or 0
        return stamped

    @property
    def cover(self) -> float:
        """Share of the window that was put there."""
        return min(1.0, self._filled / self._inside) if self._inside else 0.0

    def resampled(self) -> NDArray[np.float32]:
        """[N] at the rate that was asked for."""
        from scipy.signal import resample_poly

        out = self._samples if self._up == self._down else resample_poly(self._samples, self._up, self._down)
        out = out[self._lead_out : self._lead_out + self._count]
        return np.clip(out, -1, 1).astype(np.float32)


def _mono(frame: Any) -> NDArray[np.float64]:
    """The channels of a frame mixed, [N] in -1..1: a speaker's weight over all weights, so that no mix is too loud."""
    names = [channel.name for channel in frame.layout.channels]
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, len(names)).T
    samples = data.astype(np.float64)
    if data.dtype.kind == "u":
        samples = samples / 128 - 1
    elif data.dtype.kind == "i":
        samples /= 2.0 ** (8 * data.dtype.itemsize - 1)
    weights = np.array([_WEIGHTS.get(name, _HALF) for name in names])
    if not weights.any():
        weights[:] = 1
    # No matrix product: BLAS rounds it as the kernel does that it takes for the CPU.
    mixed: NDArray[np.float64] = (samples * (weights / weights.sum())[:, None]).sum(axis=0)
    return mixed
