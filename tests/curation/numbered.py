"""Films whose frames carry their own number as pixels, in any codec and container that PyAV writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 8


def picture(number: int, width: int = 128, height: int = 96) -> NDArray[np.uint8]:
    """A grey picture [H, W, 3] with a number as white blocks, the most significant bit left, and coloured corners:
    red, green, blue, yellow from the top left on."""
    image = np.full((height, width, 3), 128, np.uint8)
    top, bottom = height * 3 // 8, height * 5 // 8
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[top:bottom, left:right] = 255 if number >> (BITS - 1 - bit) & 1 else 0
    rows, columns = height // 4, width // 4
    image[:rows, :columns] = 255, 0, 0
    image[:rows, -columns:] = 0, 255, 0
    image[-rows:, :columns] = 0, 0, 255
    image[-rows:, -columns:] = 255, 255, 0
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a picture shows."""
    height, width = image.shape[:2]
    band = image[height * 7 // 16 : height * 9 // 16].mean(axis=(0, 2))
    value = 0
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        margin = (right - left) // 4
        value = value * 2 + int(band[left + margin : right - margin].mean() > 127)
    return value


def corners(image: NDArray[np.uint8]) -> str:
    """The corners' colours from the top left on, row by row: RGBY as it was filmed."""
    height, width = image.shape[:2]
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 0): "Y"}
    places = [(1, 1), (1, 7), (7, 1), (7, 7)]
    seen = (image[row * height // 8, column * width // 8] > 127 for row, column in places)
    return "".join(names.get(tuple(int(value) for value in colour), "?") for colour in seen)


@dataclass(frozen=True)
class Film:
    """What to write."""

    codec: str = "libx264"
    container: str | None = None
    """Format's name; None: by the file's suffix."""
    pix_fmt: str = "yuv420p"
    stamps: Sequence[Fraction] = tuple(Fraction(index, 24) for index in range(48))
    """Seconds at which each frame begins."""
    rate: Fraction = Fraction(24)
    time_base: Fraction | None = None
    """Unit of the stamps given to the encoder; None: a frame of `rate`."""
    size: tuple[int, int] = (128, 96)
    gop: int = 12
    b_frames: int = 0
    picture: Callable[[int, int, int], NDArray[np.uint8]] = picture
    """What a frame shows, by its number, width and height."""
    aspect: Fraction | None = None
    """Width over height of a pixel."""
    matrix: Sequence[int] | None = None
    """Display matrix."""
    options: Mapping[str, str] = field(default_factory=dict)
    muxer: Mapping[str, str] = field(default_factory=dict)


def write(path: Path, film: Film) -> None:
    """Write a film. av.FFmpegError or ValueError where the codec and the container do not go together."""
    # A file of ours: PyAV leaves its own open where the two do not go together.
    with (
        path.open("wb+") as file,
        av.open(file, "w", format=film.container, options=dict(film.muxer)) as container,
    ):
        stream = container.add_stream(film.codec, rate=film.rate, options=dict(film.options))
        stream.width, stream.height = film.size
        stream.pix_fmt = film.pix_fmt
        stream.gop_size = film.gop
        stream.max_b_frames = film.b_frames
        if film.aspect is not None:
            stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = film.aspect
        if film.matrix is not None:
            stream.set_display_matrix(list(film.matrix))
        base = film.time_base or 1 / film.rate
        stream.codec_context.time_base = base
        for number, stamp in enumerate(film.stamps):
            frame = av.VideoFrame.from_ndarray(film.picture(number, *film.size), format="rgb24")
            frame.pts, frame.time_base = round(stamp / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
