from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.thumbnails import frame_indices, thumbnails

CLIP: dict[str, Any] = {
    "media": "video", "fps": 10.0, "frames_decodable": 31, "span_start_s": None, "span_end_s": None
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "indices"),
    [
        ({}, [0, 15, 30]),
        ({"frames_decodable": 2}, [0, 1]),
        ({"frames_decodable": 1}, [0]),
        ({"span_start_s": 1.0}, [10, 20, 30]),
        ({"span_start_s": 1.0, "span_end_s": 2.0}, [10, 14, 19]),
        ({"span_end_s": 9.0}, [0, 15, 30]),
        ({"span_start_s": 9.0}, [30]),
        ({"media": "image", "fps": None, "frames_decodable": 1}, [0]),
    ],
)
def test_first_middle_and_last_frame_of_the_span(change: dict[str, Any], indices: list[int]) -> None:
    assert frame_indices(CLIP | change) == indices


def test_pictures_fit_and_are_what_they_show() -> None:
    frames = np.zeros((2, 60, 200, 3), np.uint8)
    frames[1] = (200, 40, 90)
    dark, pink = thumbnails(frames, 100)
    assert (pink.width, pink.height) == (100, 30)
    image = Image.open(io.BytesIO(base64.b64decode(pink.uri.removeprefix("data:image/jpeg;base64,"))))
    assert (image.format, image.size) == ("JPEG", (100, 30))
    assert np.abs(np.asarray(image, int) - [200, 40, 90]).max() < 4
    assert dark.uri != pink.uri
    assert thumbnails(frames, 100) == (dark, pink)
    assert [(t.width, t.height) for t in thumbnails(frames[:1, :, :4], 32)] == [(2, 32)]
    assert [(t.width, t.height) for t in thumbnails(frames[:1], 640)] == [(200, 60)]
