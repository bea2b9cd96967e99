"""A contact sheet shows the first, the middle and the last frame of each clip, in order."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lumina.evaluation.contact_sheet import Sheet, write_contact_sheet


def test_frames_stand_side_by_side(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(0, 200, 40, dtype=np.uint8), 16 * 8 * 3).reshape(5, 16, 8, 3)
    write_contact_sheet(tmp_path / "sheet.png", [Sheet("a long prompt " * 20, frames)] * 4)
    image = cv2.imread(str(tmp_path / "sheet.png"))
    first_row = image[5]
    shades = [int(first_row[place * 116 + 10, 0]) for place in range(3)]
    assert shades == [0, 80, 160]
    assert image.shape[1] == 3 * 348
