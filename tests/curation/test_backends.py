from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.backends import probe, read
from curation.schema import RowError


def test_an_image_shows_its_picture_at_any_time(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(tmp_path / "still.png")
    found = probe(tmp_path / "still.png", "image")
    assert (found.width, found.height, found.frames_decodable, found.duration_s) == (8, 6, 1, 0)
    assert (found.fps, found.track, found.codec) == (None, None, "png")
    frames = read(tmp_path / "still.png", "image", None, [0.0, 2.5])
    assert frames.pixels.shape == (2, 6, 8, 3)
    assert (frames.pixels == 90).all()


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"not an image " * 99)
    with pytest.raises(RowError, match="pillow") as caught:
        probe(tmp_path / "text.png", "image")
    assert str(tmp_path) not in caught.value.detail
    with pytest.raises(RowError, match="has not been probed"):
        read(tmp_path / "text.png", "video", None, [0.0])
