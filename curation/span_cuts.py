"""Cutting spans out of films: an MP4 whose packets are copied where a key frame begins the span, else H.264 anew.

The frames are those of the span (`lumina.frame_times.span_of`), each at its time, the first at 0. Packets of sound that
begin in the span come along as they are. What opens a file runs in the decoding process.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.clock import Clock
from curation.containers import opened
from curation.decoder import Decoder
from curation.display import deinterlaced, display_of, picture
from curation.film_frames import Track, decoded, reached, row_errors, stamps_of, stream_of
from curation.key_frames import is_clean
from curation.schema import Reason, RowError
from curation.silent_film import COPIED, UNITS, display_matrix, distinct
from lumina.files import replace_file

_SOUND = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
"""Codecs of sound that players find in an MP4."""
_SEEK_S = 10.0
_TIE_S = 1e-4
_SHOWN = ("width", "height", "frames_shown", "rotation", "mirrored", "interlaced", "hdr")
"""Columns of `probe` in which a copied span is as it was in its film."""


@dataclass(frozen=True)
class Cut:
    """How a span was cut."""

    copied: bool
    """Whether its packets are those of the film."""
    why: str
    """Why not; and what became of its sound, where that is not there."""


class _Refused(Exception):
    """Why packets cannot be copied."""


def cut_span(decoder: Decoder, path: Path, row: Mapping[str, Any], out: Path) -> Cut:
    """Write the span of a probed film to `out`, an MP4; the same bytes with one build of the libraries.

    Args:
        decoder: in which files are opened.
        path: of the film.
        row: of the table of `probe`: its track, its span, and how it is shown.
        out: the file.

    Raises:
        RowError: the span cannot be read.
    """
    settings = {"track": row["track"], "start_s": row["span_start_s"], "end_s": row["span_end_s"]}
    found, content = decoder.array("curation.span_cuts:copied_of", path, settings)
    refused = found["refused"]
    if not refused:
        replace_file(out, content.tobytes())
        refused = _differs(decoder, out, row)
    if not refused:
        return Cut(True, found["sound"])
    found, content = decoder.array("curation.span_cuts:encoded_of", path, settings)
    replace_file(out, content.tobytes())
    if (frames := decoder.probe(out, "video").frames_shown) != row["frames_shown"]:
        detail = f"{frames} of the span's {row['frames_shown']} frames can be read: the film is not what it was"
        raise RowError(Reason.DECODE_ERROR, detail)
    return Cut(False, "; ".join(filter(None, (refused, found["padded"], found["sound"]))))


def _differs(decoder: Decoder, copy: Path, row: Mapping[str, Any]) -> str:
    """How a copied span is shown otherwise than in its film."""
    try:
        probed = decoder.probe(copy, "video")
    except RowError as error:
        return f"a copy of its packets does not decode: {error.detail}"
    names = [name for name in _SHOWN if getattr(probed, name) != row[name]]
    return f"a copy of its packets has another {names[0]}" if names else ""


def copied_of(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], NDArray[np.uint8]]:
    """The span's packets in an MP4, or why they cannot be copied, for the decoding process."""
    track = Track.parse(settings["track"])
    with row_errors():
        try:
            content, sound = _copied(path, track, settings["start_s"], settings["end_s"])
        except _Refused as error:
            return {"refused": str(error), "sound": ""}, np.zeros(0, np.uint8)
    return {"refused": "", "sound": sound}, np.frombuffer(content, np.uint8)


def encoded_of(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], NDArray[np.uint8]]:
    """The span's frames as they are shown, encoded as H.264 in an MP4, for the decoding process."""
    from lumina.video import H264Encoder

    track, buffer, padded = Track.parse(settings["track"]), io.BytesIO(), ""
    start_s, end_s = settings["start_s"], settings["end_s"]
    with row_errors(), opened(path) as source, _mp4(buffer) as container:
        encoder: H264Encoder | None = None
        sound: _Sound | None = None
        first_s = 0.0
        for stamp_s, image in distinct(_shown(path, track, start_s, end_s)):
            height, width = image.shape[:2]
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if encoder is None:
                padded = f"H.264 has even sides: {width}x{height} is padded" if height % 2 or width % 2 else ""
                rate = Fraction(1 / track.interval_s).limit_denominator(1001)
                encoder = H264Encoder(container, image.shape[1::-1], rate, time_base=Fraction(1, UNITS))
                first_s = stamp_s
                sound = _Sound(source, container, _origin(path, track) + Fraction(first_s), end_s - first_s)
            container.mux(encoder.encode(image, round((stamp_s - first_s) * UNITS)))
        if encoder is None or sound is None:
            raise _empty(start_s, end_s)
        container.mux(encoder.rest())
        sound.mux()
    return {"padded": padded, "sound": sound.left_out}, np.frombuffer(buffer.getvalue(), np.uint8)


def _mp4(buffer: io.BytesIO) -> Any:
    import av

    return av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"})


def _empty(start_s: float, end_s: float) -> RowError:
    return RowError(Reason.TOO_FEW_FRAMES, f"no frame is shown from {start_s:.6g} to {end_s:.6g} s")


def _origin(path: Path, track: Track) -> Fraction:
    """When the first frame is shown, in seconds from wherever the file counts; 0 where it does not say."""
    with opened(path) as container:
        stream = stream_of(container, track.stream, seen=False)
        return stamps_of(next(decoded(stream, container.demux(stream))))[0] or Fraction(0)


def _copied(path: Path, track: Track, start_s: float, end_s: float) -> tuple[bytes, str]:
    if Clock.parse(track.clock).kind != "pts":
        raise _Refused("the container does not list when its frames are shown")
    buffer, origin = io.BytesIO(), _origin(path, track)
    with opened(path) as source, opened(path) as heard, _mp4(buffer) as container:
        film = source.streams[track.stream]
        if (codec := film.codec_context.codec.canonical_name) not in COPIED:
            raise _Refused(f"{codec} is none of the codecs that are copied ({', '.join(sorted(COPIED))})")
        packets = _packets(source, film, origin, track, start_s, end_s)
        first = packets[0].pts
        stamps = sorted(float((packet.pts - first) * film.time_base) for packet in packets)
        stream = container.add_stream_from_template(film, opaque=True)
        stream.time_base = film.time_base
        if matrix := display_matrix(path, track.stream):
            stream.set_display_matrix(matrix)
        first_s = first * film.time_base
        sound = _Sound(heard, container, first_s, end_s - float(first_s - origin))
        interval = max(1, round(track.interval_s / film.time_base))
        for packet in packets:
            packet.pts -= first
            packet.dts = None if packet.dts is None else packet.dts - first
            packet.duration = packet.duration or interval
            packet.stream = stream
            container.mux(packet)
        sound.mux()
    with _reopened(buffer) as again:
        kept = [packet for packet in again.demux(again.streams.video[0]) if packet.size and not packet.is_discard]
        found = sorted(float(packet.pts * packet.time_base) for packet in kept)
    if len(found) != len(stamps) or any(abs(a - b) > _TIE_S for a, b in zip(found, stamps, strict=True)):
        raise _Refused("a copy of its packets shows its frames at other times")
    return buffer.getvalue(), sound.left_out


def _reopened(buffer: io.BytesIO) -> Any:
    """An MP4 of ours open for reading."""
    import av

    return av.open(io.BytesIO(buffer.getvalue()), format="mp4")


def _packets(source: Any, film: Any, origin: Fraction, track: Track, start_s: float, end_s: float) -> list[Any]:
    """The packets of the span's frames in decoding order, a key frame first; _Refused if they need others."""
    base, half = film.time_base, track.interval_s / 2

    def seconds(pts: int) -> float:
        return float(pts * base - origin)

    read = _from_key_frame(source, film, origin, start_s + half)
    packets: list[Any] = []
    for packet in read:
        if packet.size:
            if packet.pts is None:
                raise _Refused("the container does not list when its frames are shown")
            packets.append(packet)
            if packet.dts is not None and seconds(packet.dts) >= end_s:
                break
    begun = [packet.pts for packet in packets if seconds(packet.pts) <= start_s + half]
    first = max(begun) if begun else min((packet.pts for packet in packets), default=0)
    wanted = {packet.pts for packet in packets if first <= packet.pts and seconds(packet.pts) < end_s - half}
    if not wanted:
        raise _empty(start_s, end_s)
    at = next(index for index, packet in enumerate(packets) if packet.pts == first)
    if not packets[at].is_keyframe:
        keys = [packet.pts for packet in packets[:at] if packet.is_keyframe and packet.pts < first]
        between = sum(max(keys, default=0) <= packet.pts < first for packet in packets)
        raise _Refused(f"the span begins {between} frame{'' if between == 1 else 's'} after a key frame")
    context = film.codec_context
    if not is_clean(context.codec.canonical_name, context.extradata or b"", bytes(packets[at])):
        raise _Refused("the span begins at a key frame that refers to frames before it")
    chosen: list[Any] = []
    late = False
    for packet in packets[at:]:
        if packet.pts in wanted:
            if late:
                raise _Refused("the span's last frames refer to one that is shown after its end")
            if packet.is_discard or packet.is_corrupt:
                raise _Refused("the container marks a packet as damaged or to be left out")
            chosen.append(packet)
        late = late or (packet.pts >= first and packet.pts not in wanted)
        if len(chosen) == len(wanted):
            break
    return chosen


def _from_key_frame(source: Any, film: Any, origin: Fraction, time_s: float) -> Iterator[Any]:
    """Packets from the last key frame at a time on; where the container cannot jump there, from the first."""
    import av

    target = int((origin + Fraction(time_s)) / film.time_base)
    if time_s > _SEEK_S:
        try:
            source.seek(target, stream=film)
            packets = source.demux(film)
            packet = next(packets)
        except av.FFmpegError:
            packet = None
        if packet is not None and packet.is_keyframe and packet.pts is not None and packet.pts <= target:
            yield packet
            yield from packets
            return
        source.seek(0)
    yield from source.demux(film)


class _Sound:
    """The sound of a span: packets of the track that is played by default, as far as they begin in it.

    A packet that began before is left out, so that nothing is heard early; the film is in step with what follows.
    """

    def __init__(self, source: Any, container: Any, first_s: Fraction, seconds: float) -> None:
        self._source, self._container = source, container
        self._first_s, self._seconds = first_s, seconds
        self.left_out, self._from, self._to = "", source.streams.best("audio"), None
        if self._from is None or self._from.codec_context is None:
            return
        if (codec := self._from.codec_context.codec.canonical_name) not in _SOUND:
            self.left_out = f"its sound is left out: {codec} does not go into an MP4"
            return
        self._to = container.add_stream_from_template(self._from, opaque=True)
        self._to.time_base = self._from.time_base

    def mux(self) -> None:
        """Write its packets."""
        if self._to is None:
            return
        base = self._from.time_base
        zero = round(self._first_s / base)
        if self._first_s > _SEEK_S:
            self._source.seek(max(0, int((self._first_s - 1) / base)), stream=self._from)
        for packet in self._source.demux(self._from):
            if not packet.size or packet.pts is None or packet.pts < zero:
                continue
            if float((packet.pts - zero) * base) >= self._seconds:
                break
            packet.pts -= zero
            packet.dts = packet.pts if packet.dts is None else packet.dts - zero
            packet.stream = self._to
            self._container.mux(packet)


def _shown(path: Path, track: Track, start_s: float, end_s: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """The frames of a span as they are shown, and when each begins in seconds from the film's first."""
    half = track.interval_s / 2
    # The filter looks at the frames before.
    early_s = start_s + half - (2 * track.interval_s if track.deinterlace else 0.0)
    frames: Iterable[tuple[float, Any]] = (
        (float(stamp), frame) for stamp, frame in reached(path, track, max(0.0, early_s))
    )
    waiting: tuple[float, Any] | None = None
    for stamp, frame in deinterlaced(frames) if track.deinterlace else frames:
        if stamp >= end_s - half:
            break
        if stamp > start_s + half and waiting is not None:
            yield waiting[0], picture(waiting[1], display_of(waiting[1], Fraction(track.pixel_aspect)))
        waiting = (stamp, frame)
    if waiting is not None:
        yield waiting[0], picture(waiting[1], display_of(waiting[1], Fraction(track.pixel_aspect)))
