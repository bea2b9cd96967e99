"""Video decoding as the official evaluation does it: all frames of a clip, in order, 8-bit RGB.

PyAV's pixels are those of decord and OpenCV, which the official code uses (`tests/lumina/vbench/test_golden.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.faults import is_of_machine, machine_error
from lumina.files import ffmpeg_path
from lumina.formats import counted

SUFFIXES = (".mp4", ".gif")
"""Files that are clips, in any case of letters."""
MOST_BYTES = 1 << 31
"""Of a clip's pixels: 5 s of 1920x1080 at 60 frames a second, and VBench judges clips below 5 s."""
_TOLD = 3
"""Kinds of clips that are named."""
_OPTIONS = {"format_whitelist": "mov,gif", "protocol_whitelist": "file"}


class UnreadableClipError(ValueError):
    """A file that is no clip; the message names it."""


@dataclass(frozen=True, eq=False)
class ClipFrames:
    """One clip."""

    pixels: NDArray[np.uint8]
    """[T, H, W, 3]"""
    fps: float
    """Average rate, as the container states it."""


@dataclass(frozen=True, order=True)
class ClipShape:
    """What a container states of its video."""

    width: int
    height: int
    frames: int
    """0 where it does not say."""
    fps: float

    def __str__(self) -> str:
        """Such as "512x512 at 16 fps, 64 frames"."""
        return f"{self.width}x{self.height} at {self.fps:g} fps" + (f", {self.frames} frames" if self.frames else "")


def clip_shape(path: Path) -> ClipShape | None:
    """Size, length and rate of a clip without decoding it; None for what `read_clip` refuses."""
    import av

    try:
        with av.open(ffmpeg_path(path), options=_OPTIONS) as container:
            stream = next(iter(container.streams.video), None)
            rate = stream and (stream.average_rate or stream.guessed_rate)
            if stream is None or not rate:
                return None
            return ClipShape(stream.width, stream.height, stream.frames, round(float(rate), 3))
    except av.FFmpegError:
        return None


def differing(shapes: Mapping[str, ClipShape | None]) -> str | None:
    """A line on clips, by name, that are not all alike; None if they are, those aside that cannot be read."""
    found: dict[ClipShape, list[str]] = {}
    for name, shape in sorted(shapes.items()):
        if shape is not None:
            found.setdefault(shape, []).append(name)
    if len(found) < 2:
        return None
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    told = [f"{len(names):,} of {shape} ({names[0]}{', ...' if len(names) > 1 else ''})" for shape, names in ordered]
    more = f", and {counted(len(told) - _TOLD, 'other kind')}" if len(told) > _TOLD else ""
    return f"the clips are not alike, and figures depend on all of it: {', '.join(told[:_TOLD])}{more}"


def read_clip(path: Path) -> ClipFrames:
    """All frames of a clip.

    Raises:
        UnreadableClipError: it is damaged, has no frame, changes its size, or has more than `MOST_BYTES` of pixels.
        MachineError: the disk or the mount is at fault, and not the clip.
    """
    import av

    try:
        with av.open(ffmpeg_path(path), options=_OPTIONS) as container:
            if not container.streams.video:
                raise UnreadableClipError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            rate = stream.average_rate or stream.guessed_rate
            pixels = _pixels(container.decode(stream), stream.frames, path)
    except av.FFmpegError as error:
        if is_of_machine(error):
            raise machine_error(error, str(path)) from error
        raise UnreadableClipError(f"{path} is no clip that can be read: {error.strerror or error}") from error
    if not len(pixels) or not rate:
        raise UnreadableClipError(f"{path} has no frame" if rate else f"{path} states no frame rate")
    return ClipFrames(pixels, float(rate))


def _pixels(frames: Iterator[Any], stated: int, path: Path) -> NDArray[np.uint8]:
    """[T, H, W, 3] of frames of one size. A list of them and their stack would be twice as much memory."""
    from av.video.reformatter import VideoReformatter

    # One for all frames: a frame's own one would be set up again for each.
    reformatter = VideoReformatter()
    pixels = np.empty((0, 0, 0, 3), np.uint8)
    count = most = 0
    for frame in frames:
        if not count:
            most = MOST_BYTES // (3 * frame.width * frame.height)
            pixels = np.empty((min(stated or 64, most), frame.height, frame.width, 3), np.uint8)
        if pixels.shape[1:3] != (frame.height, frame.width):
            before = f"{pixels.shape[2]}x{pixels.shape[1]}"
            raise UnreadableClipError(f"{path} changes its size from {before} to {frame.width}x{frame.height}")
        if count == most:
            raise UnreadableClipError(
                f"{path} has more than {most} frames of {frame.width}x{frame.height}: VBench judges clips below 5 s"
            )
        if count == len(pixels):
            pixels = np.concatenate([pixels, np.empty_like(pixels[: most - count])])
        pixels[count] = reformatter.reformat(frame, format="rgb24").to_ndarray()
        count += 1
    return pixels[:count]


def clip_files(folder: Path) -> list[Path]:
    """Clips of a folder by name; raises ValueError if it holds none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"{folder} holds no clip: expected files named <prompt>-<index>.mp4")
    return found
