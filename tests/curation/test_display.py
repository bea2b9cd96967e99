from __future__ import annotations

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from curation.display import DisplayError, Turn, display_of, oriented

TURNS: list[Turn] = [
    (a, b, c, d) for a, b, c, d in itertools.product((-1, 0, 1), repeat=4) if abs(a * d - b * c) == 1 and a * b == 0
    and c * d == 0
]  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
def test_each_pixel_goes_where_the_matrix_says(turn: Turn) -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shown = oriented(image, turn)
    a, b, c, d = turn
    places = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(2) for x in range(3)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    assert shown.shape[0] * shown.shape[1] == len(places) == 6
    for (x, y), pixel in places.items():
        np.testing.assert_array_equal(shown[y - top, x - left], pixel)


def test_there_are_eight_ways() -> None:
    assert len(TURNS) == 8


def test_sizes_as_shown() -> None:
    frame = av.VideoFrame(720, 480, "yuv420p")
    for aspect, width in ((Fraction(8, 9), 640), (Fraction(32, 27), 853), (None, 720), (Fraction(0), 720),
                          (Fraction(225, 224), 720)):  # fmt: skip
        found = display_of(frame, aspect)
        assert (found.width, found.height, found.rotation, found.mirrored) == (width, 480, 0, False)
    with pytest.raises(DisplayError, match="pixels of 1:100"):
        display_of(frame, Fraction(1, 100))
