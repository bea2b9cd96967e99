"""Display matrix and pixel aspect ratio: from a decoded frame to the picture that a player shows."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.colour import to_rgb
from lumina.transparency import alpha_of, over_white

Turn = tuple[int, int, int, int]
"""(a, b, c, d) of -1, 0 and 1: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
UPRIGHT: Turn = (1, 0, 0, 1)

_TOLERANCE = 0.02
"""Of a turn by a multiple of 90 degrees: its sine may be off by so much."""
_NEARLY_SQUARE = Fraction(1, 100)
_FLATTEST = 16


class DisplayError(ValueError):
    """The file asks for a display that there is none of."""


@dataclass(frozen=True)
class Display:
    """How stored pixels are shown."""

    width: int
    """As shown, as `height`: resampled to square pixels, then turned."""
    height: int
    turn: Turn
    pixel_aspect: Fraction
    """Width over height of a stored pixel."""

    @property
    def mirrored(self) -> bool:
        """Whether left and right are swapped before it is rotated."""
        a, b, c, d = self.turn
        return a * d - b * c < 0

    @property
    def rotation(self) -> int:
        """Degrees clockwise by which it is rotated: 0, 90, 180 or 270."""
        a, b, _, _ = self.turn
        if self.mirrored:
            a, b = -a, -b
        return round(math.degrees(math.atan2(b, a))) % 360


def display_of(frame: Any, pixel_aspect: Fraction | None) -> Display:
    """How a frame (av.VideoFrame) is shown, with the pixel aspect that its stream states.

    The width is resampled to square pixels, as players do; an aspect within a hundredth of 1 is left alone, since it
    comes from the rounding of a size. DisplayError for a turn by no multiple of 90 degrees, and absurd aspects.
    """
    turn, aspect = _turn(frame), pixel_aspect if pixel_aspect and pixel_aspect > 0 else Fraction(1)
    if not Fraction(1, _FLATTEST) <= aspect <= _FLATTEST:
        raise DisplayError(f"pixels of {aspect.numerator}:{aspect.denominator}")
    if abs(aspect - 1) <= _NEARLY_SQUARE:
        aspect = Fraction(1)
    width, height = max(1, round(frame.width * aspect)), frame.height
    if turn[0] == 0:
        width, height = height, width
    return Display(width, height, turn, aspect)


def _turn(frame: Any) -> Turn:
    from av.sidedata.sidedata import Type

    try:
        side_data = frame.side_data
    except ValueError:  # a kind that PyAV has no name for, such as Exif, hides the matrix; its angle is told apart
        angle = math.radians(-frame.rotation)
        a, b, c, d = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    else:
        if Type.DISPLAYMATRIX not in side_data:
            return UPRIGHT
        a, b, _, c, d, *_ = struct.unpack("<9i", bytes(side_data[Type.DISPLAYMATRIX]))
    scale = math.hypot(a, b), math.hypot(c, d)
    if min(scale) == 0:
        return UPRIGHT  # an empty matrix says nothing
    exact = a / scale[0], b / scale[0], c / scale[1], d / scale[1]
    turn = tuple(round(value) for value in exact)
    if any(abs(value - near) > _TOLERANCE for value, near in zip(exact, turn, strict=True)) or (
        abs(turn[0] * turn[3] - turn[1] * turn[2]) != 1
    ):
        raise DisplayError(f"turned by {math.degrees(math.atan2(b, a)):.0f} degrees, which is no multiple of 90")
    return turn[0], turn[1], turn[2], turn[3]


def picture(frame: Any, display: Display) -> NDArray[np.uint8]:
    """RGB [display.height, display.width, 3] of a decoded frame as it is shown, over white where it is transparent.

    ValueError for unreadable colours.
    """
    image = over_white(to_rgb(frame), alpha_of(frame))
    if display.pixel_aspect != 1:
        import cv2

        width = display.height if display.turn[0] == 0 else display.width
        kind = cv2.INTER_AREA if width < frame.width else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(image, (width, frame.height), interpolation=kind))
    return oriented(image, display.turn)


def oriented(image: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """Turn and mirror an image [H, W, 3]."""
    a, b, c, d = turn
    if a == 0:
        image, flips = image.transpose(1, 0, 2), (b, c)
    else:
        flips = (d, a)
    return np.ascontiguousarray(image[:: flips[0], :: flips[1]])


def deinterlaced(frames: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """Frames with their stamps; those flagged as interlaced pass through BWDIF, which looks at their neighbours."""
    waiting: deque[float] = deque()
    graph: Any = None
    for number, (stamp, frame) in enumerate(frames):
        graph = graph or _bwdif(frame)
        waiting.append(stamp)
        frame.pts, frame.time_base = number, Fraction(1)
        graph.push(frame)
        for progressive in _pulled(graph):
            yield waiting.popleft(), progressive
    if graph is not None:
        graph.push(None)
        for progressive in _pulled(graph):
            yield waiting.popleft(), progressive


def _pulled(graph: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


def _bwdif(frame: Any) -> Any:
    import av.filter

    graph = av.filter.Graph()
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    progressive = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(progressive)
    progressive.link_to(sink)
    graph.configure()
    return graph
