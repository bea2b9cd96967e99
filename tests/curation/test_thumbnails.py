from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.film_frames import Track
from curation.thumbnails import thumbnail_times, thumbnails

CLIP: dict[str, Any] = {"media": "video", "duration_s": 3.1, "track": str(Track(0, "pts", 0.1))}


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({}, [0, 1.5, 3.0]),
        ({"duration_s": 0.2}, [0, 0.05, 0.1]),
        ({"duration_s": 0.1}, [0]),
        ({"media": "image", "duration_s": 0.0, "track": None}, [0]),
    ],
)
def test_first_middle_and_last_frame_of_the_clip(change: dict[str, Any], times: list[float]) -> None:
    assert thumbnail_times(CLIP | change) == pytest.approx(times)


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
