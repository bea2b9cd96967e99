"""Films that get a sound: their frames as small as the networks see them, and the film alone as an MP4.

It runs in the decoding process, as everything that opens a file from outside.
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

from curation.containers import Film, find_film, opened
from curation.decoder import Decoder
from curation.display import deinterlaced, display_of, picture
from curation.film_frames import Track, decoded, reached, row_errors, stream_of
from curation.schema import Reason, RowError
from lumina.video_to_audio.lengths import SYNC_FPS, VISUAL_FPS, Lengths

COPIED = frozenset({"h264", "hevc", "av1", "vp9"})
"""Codecs whose streams players find in an MP4."""
UNITS = 90_000
"""Of a second, for stamps of frames that are encoded anew."""
_TIE_S = 1e-6


@dataclass(frozen=True)
class FilmAlone:
    """The film of a file without any sound, its first frame shown at 0."""

    mp4: bytes
    codec: str
    """As it was stored."""
    copied: bool
    """Whether its packets are those of the file; otherwise it is encoded anew, as H.264."""


def small_frames(
    decoder: Decoder, path: Path, track: str, needed: Lengths, sides: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames of a probed film for CLIP at 8 fps, [V, C, C, 3], and for Synchformer at 25, [S, H, H, 3].

    `sides` is (C, H).

    Those that `lumina.video_to_audio.frames.grid_indices` picks, as small as the networks make them: what these find is
    the same. RowError if they cannot be had.
    """
    settings = {"track": track, "seen": needed.visual_frames, "moving": needed.sync_frames}
    found, pixels = decoder.array("curation.silent_film:frames_of", path, settings)
    # One by one: floats of all of them would not fit.
    seen = {index: _for_clip(pixels[index], sides[0]) for index in set(found["seen"])}
    moving = {index: _for_sync(pixels[index], sides[1]) for index in set(found["moving"])}
    return np.stack([seen[index] for index in found["seen"]]), np.stack([moving[index] for index in found["moving"]])


def _for_clip(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from lumina.video_to_audio.frames import resize

    small: NDArray[np.uint8] = resize(frame[None], side, side)[0].permute(1, 2, 0).numpy()
    return small


def _for_sync(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from lumina.video_to_audio.frames import sync_frames

    # Whole grey levels, as they were before they became numbers from -1 to 1.
    levels = sync_frames(frame[None], side)[0].add(1).mul(127.5).round().byte()
    small: NDArray[np.uint8] = levels.permute(1, 2, 0).numpy()
    return small


def film_alone(decoder: Decoder, path: Path, track: str) -> FilmAlone:
    """The film of a probed file. RowError if it cannot be had."""
    found, content = decoder.array("curation.silent_film:film_alone_of", path, {"track": track})
    return FilmAlone(content.tobytes(), found["codec"], found["copied"])


def frames_of(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, list[int]], NDArray[np.uint8]]:
    """The frames that two grids of times pick, as they are shown, and which are at each time of either."""
    grids = {"seen": (VISUAL_FPS, settings["seen"]), "moving": (SYNC_FPS, settings["moving"])}
    found: dict[str, list[int]] = {name: [] for name in grids}
    kept: list[NDArray[np.uint8]] = []
    image: NDArray[np.uint8] | None = None
    with row_errors():
        for stamp_s, image in _shown(path, Track.parse(settings["track"])):
            wanted = False
            for name, (fps, count) in grids.items():
                while len(found[name]) < count and stamp_s >= len(found[name]) / fps - _TIE_S:
                    found[name].append(len(kept))
                    wanted = True
            if wanted:
                kept.append(image)
    if image is None:
        raise RowError(Reason.DECODE_ERROR, "pyav: the video stream has no frame")
    for name, (_, count) in grids.items():
        found[name] += [len(kept)] * (count - len(found[name]))
    return found, np.stack([*kept, image])


def film_alone_of(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """`film_alone`, for the decoding process."""
    with row_errors():
        film = find_film(path)
        track = Track.parse(settings["track"])
        content = _copied(path, film, track) if film.codec in COPIED and film.listed else None
        copied = content is not None
        content = content if content is not None else _encoded(path, track)
    return {"codec": film.codec, "copied": copied}, np.frombuffer(content, np.uint8)


def _copied(path: Path, film: Film, track: Track) -> bytes | None:
    """The film's packets in an MP4; None where it would not show its frames at the same times."""
    import av

    stamps, interval = film.listed or [], max(1, round(track.interval_s / film.time_base))
    buffer = io.BytesIO()
    with opened(path) as source, av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        film_stream = source.streams[film.index]
        stream = container.add_stream_from_template(film_stream, opaque=True)
        stream.time_base = film_stream.time_base
        if matrix := display_matrix(path, film.index):
            stream.set_display_matrix(matrix)
        for packet in source.demux(film_stream):
            if not packet.size:
                continue
            packet.pts -= stamps[0]
            packet.dts = None if packet.dts is None else packet.dts - stamps[0]
            # Matroska does not say how long the last one is shown.
            packet.duration = packet.duration or interval
            packet.stream = stream
            container.mux(packet)
    with av.open(io.BytesIO(buffer.getvalue()), format="mp4") as again:
        packets = [packet for packet in again.demux(again.streams.video[0]) if packet.size and not packet.is_discard]
        found = sorted(float(packet.pts * packet.time_base) for packet in packets)
    wanted = [float((pts - stamps[0]) * film.time_base) for pts in stamps]
    same = len(found) == len(wanted) and all(abs(a - b) < 1e-4 for a, b in zip(found, wanted, strict=True))
    return buffer.getvalue() if same else None


def display_matrix(path: Path, index: int) -> list[int] | None:
    """The nine numbers by which a player turns the picture of a stream, where there are any."""
    import struct

    from av.sidedata.sidedata import Type

    with opened(path) as container:
        stream = stream_of(container, index, seen=False)
        frame = next(decoded(stream, container.demux(stream)))
        try:
            found = frame.side_data
        except ValueError:
            return None
        return list(struct.unpack("<9i", bytes(found[Type.DISPLAYMATRIX]))) if Type.DISPLAYMATRIX in found else None


def _encoded(path: Path, track: Track) -> bytes:
    """The film as H.264, each frame at its time; sides are even."""
    import av

    from lumina.video import H264Encoder

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        encoder: H264Encoder | None = None
        for stamp_s, image in distinct(_shown(path, track)):
            height, width = image.shape[:2]
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if encoder is None:
                rate = Fraction(1 / track.interval_s).limit_denominator(1001)
                encoder = H264Encoder(container, image.shape[1::-1], rate, time_base=Fraction(1, UNITS))
            container.mux(encoder.encode(image, round(stamp_s * UNITS)))
        if encoder is None:
            raise RowError(Reason.DECODE_ERROR, "pyav: the video stream has no frame")
        container.mux(encoder.rest())
    return buffer.getvalue()


def _shown(path: Path, track: Track) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """All frames of a film as they are shown, and when each begins in seconds from the first."""
    frames: Iterable[tuple[float, Any]] = ((float(stamp), frame) for stamp, frame in reached(path, track, 0.0))
    for stamp, frame in deinterlaced(frames) if track.deinterlace else frames:
        yield stamp, picture(frame, display_of(frame, Fraction(track.pixel_aspect)))


def distinct(frames: Iterable[tuple[float, NDArray[np.uint8]]]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Without those that are shown for no time, of which the last of an instant counts."""
    waiting: tuple[float, NDArray[np.uint8]] | None = None
    for stamp, image in frames:
        if waiting is not None and round(stamp * UNITS) > round(waiting[0] * UNITS):
            yield waiting
        waiting = stamp, image
    if waiting is not None:
        yield waiting
