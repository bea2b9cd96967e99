"""Video decoding: what a film is after a look at its frames, and its frames by time.

Plain functions of a local path. They may hang or crash on a bad file; `curation.decoder` runs them where that does no
harm. What is not asked for is decoded on the way, but not converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation.clock import Clock, Timeline, find_clock, timeline
from curation.containers import Film, find_film, opened
from curation.display import Display, deinterlaced, display_of, picture
from curation.film_frames import Track, decoded, reached, row_errors, stamps_of, stream_of
from curation.fitting import Fit
from curation.schema import Reason, RowError, Status
from lumina.colour import tags
from lumina.frame_times import pick_frames, span_of

_LOOK_FRAMES = 4096
"""Frames of a clip that are decoded to prove that the container lists what is there."""
_HDR = ("smpte2084", "arib-std-b67")
Pick = Callable[[Sequence[float], Iterable[tuple[float, Any]], float], Iterator[tuple[float, Any]]]
"""A rule that tells which frame is had at a time, as `pick_frames` is one."""


@dataclass(frozen=True)
class Probe:
    """What is known of a clip after decoding it: of an image, of a film, or of a span of a film.

    What an image does not have is None, but for its one frame and its duration of 0.
    """

    width: int
    """In pixels as shown: resampled to square ones, mirrored and rotated."""
    height: int
    codec: str
    pix_fmt: str
    decoder: str
    """Backend and version."""
    frames_decodable: int = 1
    """Frames of the file."""
    frames_shown: int = 1
    """Frames of the clip that are on the screen for a time: those with a stamp of their own."""
    duration_s: float = 0.0
    """Of the clip."""
    rotation: int = 0
    """Degrees clockwise that were applied to show it: 0, 90, 180 or 270."""
    mirrored: bool = False
    """Whether left and right were swapped before."""
    pixel_aspect: float = 1.0
    """Width over height of a stored pixel."""
    interlaced: float | None = None
    """Share of the clip's frames that are flagged as interlaced; they are deinterlaced when they are read."""
    hdr: int | None = None
    """1 if the signal is PQ or HLG, which is mapped to SDR when it is read, else 0."""
    color_transfer: str | None = None
    """Name of the transfer characteristics by ITU-T H.273, where the file states them."""
    fps: float | None = None
    """The constant rate, else the average."""
    frames_container: int | None = None
    """Number of frames that the container claims, where it does."""
    max_gap_s: float | None = None
    """Longest time that one frame of the clip stands."""
    file_duration_s: float | None = None
    container: str | None = None
    track: str | None = None
    """Text of a `Track`."""


@dataclass(frozen=True)
class Frames:
    """Frames of a clip."""

    pixels: NDArray[Any]
    """[T, H, W, 3], RGB, as shown, uint8; what a fit made of them, if there was one."""
    stamps_s: tuple[float, ...]
    """When each begins, in seconds from the film's first frame."""
    shown: tuple[int, int]
    """(width, height) of the picture as shown."""


class _Look(NamedTuple):
    """A decoded frame without its pixels; `pts`, `dts` and `duration` are whole multiples of `time_base` seconds."""

    pts: int | None
    dts: int | None
    duration: int
    time_base: Fraction
    shown: _Shown
    interlaced: bool


@dataclass(frozen=True)
class _Shown:
    """What frames of one size have in common."""

    width: int
    """As stored, as `height`."""
    height: int
    display: Display
    transfer: str | None


@dataclass(frozen=True)
class _Seen:
    """What was decoded of a film."""

    clock: Clock
    line: Timeline
    clip: range
    """Indices of the clip's frames in the film."""
    looks: Sequence[_Look]
    """Of the clip's frames, from its first on."""


def probe_video(path: Path, start_s: float | None = None, end_s: float | None = None) -> Probe:
    """Decode a clip, which is the film in a file from `start_s` to `end_s` seconds after its first frame, or all of it.

    Raises:
        RowError: it cannot be used, with what was found where.
    """
    import av

    with row_errors():
        film, span = find_film(path), (start_s or 0.0, end_s)
        seen = _as_listed(path, film, span) or _as_decoded(path, film, span)
        line, first = seen.line, seen.looks[0].shown
        _check_one_size(seen)
        begins = [line.stamps_s[index] for index in seen.clip]
        end = line.end_s if end_s is None else min(end_s, line.end_s)
        ends = [*begins[1:], line.end_s if seen.clip.stop == len(line.stamps_s) else line.stamps_s[seen.clip.stop]]
        interlaced = sum(look.interlaced for look in seen.looks) / len(seen.looks)
        return Probe(
            width=first.display.width,
            height=first.display.height,
            codec=film.codec,
            pix_fmt=film.pix_fmt,
            decoder=f"pyav/{av.__version__}",
            frames_decodable=len(line.stamps_s),
            frames_shown=len(set(begins)),
            duration_s=end - span[0],
            rotation=first.display.rotation,
            mirrored=first.display.mirrored,
            pixel_aspect=float(first.display.pixel_aspect),
            interlaced=interlaced,
            hdr=int(first.transfer in _HDR),
            color_transfer=first.transfer,
            fps=_fps(line, begins),
            frames_container=film.claimed_frames,
            max_gap_s=max(later - sooner for sooner, later in zip(begins, ends, strict=True)),
            file_duration_s=line.end_s,
            container=film.container,
            track=str(Track(film.index, str(seen.clock), line.interval_s, str(film.pixel_aspect), interlaced > 0)),
        )


def read_video(
    path: Path, track: Track, times_s: Sequence[float], fit: Fit | None = None, pick: Pick = pick_frames
) -> Frames:
    """The frames that `pick` finds at the ascending `times_s`, seconds from the film's first frame.

    Each is fitted as soon as it is decoded. RowError if they cannot be had.
    """
    with row_errors():
        # The filter looks at the frames before.
        early = 2 * track.interval_s if track.deinterlace else 0.0
        frames = ((float(stamp), frame) for stamp, frame in reached(path, track, times_s[0] - early))
        pixels: NDArray[Any] | None = None
        size = (0, 0)
        stamps: list[float] = []
        progressive = deinterlaced(frames) if track.deinterlace else frames
        for stamp, frame in pick(times_s, progressive, track.interval_s):
            if pixels is not None and stamps[-1] == stamp:
                pixels[len(stamps)] = pixels[len(stamps) - 1]
                stamps.append(stamp)
                continue
            image = picture(frame, display_of(frame, Fraction(track.pixel_aspect)))
            if pixels is not None and image.shape[1::-1] != size:
                raise _size_changes(size, image.shape[1::-1], stamp)
            size = (image.shape[1], image.shape[0])
            fitted = image if fit is None else fit(image)
            if pixels is None:
                # In place from the first on: a stack at the end would hold the clip twice.
                pixels = np.empty((len(times_s), *fitted.shape), fitted.dtype)
            pixels[len(stamps)] = fitted
            stamps.append(stamp)
        if pixels is None:
            raise RowError(Reason.DECODE_ERROR, "pyav: the video stream has no frame")
        return Frames(pixels, tuple(stamps), size)


def watch_video(path: Path, visit: Callable[[Any], None]) -> Timeline:
    """Decode the film in a file, hand each frame (av.VideoFrame) to `visit`, and tell when they are shown; RowError."""
    with row_errors():
        film = find_film(path)
        known: list[tuple[Fraction | None, Fraction | None]] = []
        duration = Fraction(0)
        with opened(path) as container:
            stream = stream_of(container, film.index)
            for frame in decoded(stream, container.demux(stream)):
                visit(frame)
                known.append(stamps_of(frame))
                duration = frame.duration * film.time_base
        return _times(film, known, duration)[1]


def _as_listed(path: Path, film: Film, span: tuple[float, float | None]) -> _Seen | None:
    """A clip by the stamps that the container lists, if the frames that are decoded have just these."""
    listed = film.listed
    if listed is None:
        return None
    offsets = [(pts - listed[0]) * film.time_base for pts in listed]
    line = timeline(offsets, film.last_duration, film.rates)
    clip = _clip(line, span)
    track = Track(film.index, "pts", line.interval_s, str(film.pixel_aspect))
    expected = offsets[clip.start : clip.stop][:_LOOK_FRAMES]
    looks: list[_Look] = []
    for stamp, look in _looks(path, track, line.stamps_s[clip.start]):
        if stamp < expected[0]:
            continue
        if stamp != expected[len(looks)]:
            return None
        looks.append(look)
        if len(looks) == len(expected):
            return _Seen(Clock("pts"), line, clip, looks)
    return None


def _as_decoded(path: Path, film: Film, span: tuple[float, float | None]) -> _Seen:
    """A clip by the times of all frames that are decoded."""
    track = Track(film.index, "1", 1.0, str(film.pixel_aspect))
    looks = [look for _, look in _looks(path, track, 0.0)]
    clock, line = _times(film, [stamps_of(look) for look in looks], looks[-1].duration * looks[-1].time_base)
    clip = _clip(line, span)
    return _Seen(clock, line, clip, looks[clip.start : clip.stop])


def _times(
    film: Film, known: Sequence[tuple[Fraction | None, Fraction | None]], last: Fraction
) -> tuple[Clock, Timeline]:
    """The clock and the timeline of decoded frames, whose stamps (pts, dts) are known in part."""
    pts, dts = zip(*known, strict=True)
    clock = find_clock(film.container, film.has_stamps, pts, dts, film.rates)
    stamps = [clock.stamp(index, *one) for index, one in enumerate(known)]
    return clock, timeline(stamps, last if film.has_stamps else None, film.rates)


def _clip(line: Timeline, span: tuple[float, float | None]) -> range:
    start, end = span
    clip = span_of(line.stamps_s, start, line.end_s + line.interval_s if end is None else end, line.interval_s)
    if start >= line.end_s or not clip:
        detail = f"the span begins at {start:.6g} s, and the film ends at {line.end_s:.6g} s"
        raise RowError(Reason.TOO_FEW_FRAMES, detail, Status.FILTERED)
    return clip


def _fps(line: Timeline, begins: Sequence[float]) -> float:
    """Of the film where it is constant, else the average over the clip's frames."""
    if line.is_constant or len(begins) < 2 or begins[-1] == begins[0]:
        return line.fps
    return (len(begins) - 1) / (begins[-1] - begins[0])


def _check_one_size(seen: _Seen) -> None:
    first = seen.looks[0].shown
    for index, look in zip(seen.clip, seen.looks, strict=False):
        if look.shown != first:
            sizes = (first.display.width, first.display.height), (look.shown.display.width, look.shown.display.height)
            raise _size_changes(*sizes, seen.line.stamps_s[index])


def _size_changes(before: tuple[int, ...], after: tuple[int, ...], stamp_s: float) -> RowError:
    shown = " to ".join("x".join(map(str, size)) for size in (before, after))
    return RowError(Reason.SIZE_CHANGES, f"the picture changes from {shown} at {stamp_s:.6g} s")


def _looks(path: Path, track: Track, time_s: float) -> Iterator[tuple[Fraction, _Look]]:
    """Frames from `time_s` on or before, without their pixels, and their stamps by the track's clock."""
    sizes: dict[tuple[int, int], _Shown] = {}
    for stamp, frame in reached(path, track, time_s, seen=False):
        size = (frame.width, frame.height)
        if size not in sizes:
            sizes[size] = _Shown(*size, display_of(frame, Fraction(track.pixel_aspect)), tags(frame)["color_transfer"])
        yield (
            stamp,
            _Look(frame.pts, frame.dts, frame.duration, frame.time_base, sizes[size], frame.interlaced_frame),
        )
