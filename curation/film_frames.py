"""Sequential decoding with PyAV: the frames of a film in the order shown, with their time stamps.

Frames are decoded one after another from the start, or from a key frame after which nothing refers to what came before
it: every other way to jump gives other frames than asked for, in some codec or container.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from curation.clock import Clock, ClockError
from curation.containers import opened
from curation.display import DisplayError
from curation.key_frames import is_clean
from curation.schema import Reason, RowError
from lumina.faults import brief, is_of_machine, machine_error

_AMBIGUOUS = (errno.EIO, errno.ENOMEM, errno.EPERM, errno.ENOSPC, errno.EAGAIN)
"""What FFmpeg says of damaged files, too."""
_SEEK_S = 10.0
"""Frames later than this are reached by a jump to a key frame, where that is safe."""


@dataclass(frozen=True)
class Track:
    """How the frames of a probed film are read again."""

    stream: int
    """Index of the video stream in the file."""
    clock: str
    """Of `curation.clock.Clock`."""
    interval_s: float
    """Usual seconds from one frame to the next."""
    pixel_aspect: str = "1"
    """Width over height of a stored pixel."""
    deinterlace: bool = False
    """Whether frames of the clip are interlaced."""

    @staticmethod
    def parse(text: str) -> Track:
        """Read a track back from its text."""
        return Track(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def reached(path: Path, track: Track, time_s: float, seen: bool = True) -> Iterator[tuple[Fraction, Any]]:
    """Frames from `time_s` on or before, with their stamps in seconds from the film's first frame.

    Without `seen` nobody looks at their pixels, which may be somewhat wrong.
    """
    clock = Clock.parse(track.clock)
    if clock.kind == "pts" and time_s > _SEEK_S:
        with opened(path) as container:
            jumped = _jumped(container, stream_of(container, track.stream, seen), time_s)
            if jumped is not None:
                yield from jumped
                return
    with opened(path) as container:
        stream = stream_of(container, track.stream, seen)
        origin: Fraction | None = None
        for index, frame in enumerate(decoded(stream, container.demux(stream))):
            stamp = clock.stamp(index, *stamps_of(frame))
            origin = stamp if origin is None else origin
            yield stamp - origin, frame


def stream_of(container: Any, index: int, seen: bool = True) -> Any:
    """A stream to decode, in one thread: workers are the parallelism. See `reached` for `seen`."""
    stream = container.streams[index]
    stream.codec_context.thread_count = 1
    if not seen:
        # It finds no fault, and takes a quarter of the time.
        stream.codec_context.options = {"skip_loop_filter": "all"}
    return stream


def stamps_of(frame: Any) -> tuple[Fraction | None, Fraction | None]:
    """When a frame is shown, and when it was decoded, in seconds from wherever the file counts."""
    base = frame.time_base
    return tuple(None if value is None else value * base for value in (frame.pts, frame.dts))  # type: ignore[return-value]


def _jumped(container: Any, stream: Any, time_s: float) -> Iterator[tuple[Fraction, Any]] | None:
    """As `reached`, from the last key frame before; None where it is not safe to begin there."""
    import av

    first = next(decoded(stream, container.demux(stream)))
    if first.pts is None:
        return None
    origin, base = first.pts, stream.time_base
    target = origin + int(time_s / base)
    try:
        container.seek(target, stream=stream)
        packets = container.demux(stream)
        packet = next(packets)
    except av.FFmpegError:
        return None  # a container without an index
    if not packet.is_keyframe or packet.pts is None or not origin <= packet.pts <= target:
        return None
    if not is_clean(stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b"", bytes(packet)):
        return None
    begin = packet.pts
    frames = decoded(stream, chain([packet], packets))
    # Pictures shown before the key frame may lack what they refer to.
    return (((frame.pts - origin) * base, frame) for frame in frames if frame.pts is not None and frame.pts >= begin)


def decoded(stream: Any, packets: Iterable[Any]) -> Iterator[Any]:
    """Frames in the order shown. What cannot be decoded before the first and after the last of them is left out.

    RowError for damage between two frames: what is decoded after it may look like anything.
    """
    import av

    damage: _Damage | None = None
    begun, torn = False, set[int | None]()
    source = iter(packets)
    while True:
        try:
            packet = next(source, None)
        except av.FFmpegError as error:  # the container ends in the middle
            check_machine(error)
            damage, packet = damage or _Damage(brief(error), None), None
        if packet is not None and packet.is_corrupt:
            if packet.pts is None:
                damage = damage or _Damage("a damaged packet", None)
            torn.add(packet.pts)
        try:
            frames = stream.decode(None) if packet is None else packet.decode()
        except av.FFmpegError as error:
            damage = damage or _Damage(brief(error), packet.pts if packet is not None else None)
            frames = []
        for frame in frames:
            if frame.is_corrupt or (frame.pts is not None and frame.pts in torn):
                damage = damage or _Damage("a damaged picture", frame.pts)
            elif begun and damage is not None and damage.is_before(frame.pts):
                when = "" if frame.pts is None else f" before {float(frame.pts * stream.time_base):.6g} s"
                raise RowError(Reason.DECODE_ERROR, f"pyav: {damage.text}{when}: damaged between two frames")
            else:
                damage, begun = damage if begun else None, True
                yield frame
        if packet is None:
            break
    if not begun:
        raise RowError(
            Reason.DECODE_ERROR, f"pyav: {damage.text if damage else f'the {stream.type} stream has no frame'}"
        )


@dataclass(frozen=True)
class _Damage:
    """Something that could not be decoded."""

    text: str
    pts: int | None

    def is_before(self, pts: int | None) -> bool:
        """Whether it lies before a frame, for all that is known."""
        return self.pts is None or pts is None or self.pts < pts


def check_machine(error: Exception) -> None:
    """MachineError for what is said of the machine for certain; FFmpeg has numbers of its own for many things."""
    import av

    number = getattr(error, "errno", None)
    if (
        isinstance(number, int)
        and number in errno.errorcode
        and not (isinstance(error, av.FFmpegError) and number in _AMBIGUOUS)
    ):
        system = OSError(number, os.strerror(number))
        if is_of_machine(system):
            raise machine_error(system) from error


@contextmanager
def row_errors() -> Iterator[None]:
    """Errors of decoding as RowError; MachineError for those of the machine."""
    import av

    try:
        yield
    except (ClockError, DisplayError) as error:
        raise RowError(Reason.DECODE_ERROR, str(error)) from error
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as error:
        check_machine(error)
        raise RowError(Reason.DECODE_ERROR, f"pyav: {brief(error)}") from error
