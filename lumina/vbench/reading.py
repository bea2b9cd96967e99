"""Frames of clips as the official evaluation reads them: all of them, in order, 8-bit RGB.

PyAV's pixels are those of decord and OpenCV, which the official code uses (`tests/lumina/vbench/test_golden.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.files import ffmpeg_path

SUFFIXES = (".mp4", ".gif")
"""Files that are clips, in any case of letters."""
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


def read_clip(path: Path) -> ClipFrames:
    """All frames of a clip; raises UnreadableClipError naming the file if it is damaged or has none."""
    import av

    try:
        with av.open(ffmpeg_path(path), options=_OPTIONS) as container:
            if not container.streams.video:
                raise UnreadableClipError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            rate = stream.average_rate or stream.guessed_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in _one_size(container.decode(stream), path)]
    except av.FFmpegError as error:
        raise UnreadableClipError(f"{path} is no clip that can be read: {error.strerror or error}") from error
    if not frames or not rate:
        raise UnreadableClipError(f"{path} has no frame" if rate else f"{path} states no frame rate")
    return ClipFrames(np.stack(frames), float(rate))


def _one_size(frames: Iterator[Any], path: Path) -> Iterator[Any]:
    first: tuple[int, int] | None = None
    for frame in frames:
        first = first or (frame.width, frame.height)
        if (frame.width, frame.height) != first:
            raise UnreadableClipError(f"{path} changes its size from {first} to {(frame.width, frame.height)}")
        yield frame


def clip_files(folder: Path) -> list[Path]:
    """Clips of a folder by name; raises ValueError if it holds none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"{folder} holds no clip: expected files named <prompt>-<index>.mp4")
    return found
