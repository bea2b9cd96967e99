from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from curation import score_text
from curation.score_text import text
from curation.scores import QualityConfig, ScoresConfig, TextConfig
from tests.curation.scored import scored, texture

H, W = 720, 1280


def _bright(picture: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Stands for OCR: a box around each bright thing, which says how large it is."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((picture[..., 0] > 200).astype(np.uint8))
    found = []
    for x, y, width, height, _ in stats[1:]:
        corners = [[x, y], [x + width - 1, y], [x + width - 1, y + height - 1], [x, y + height - 1]]
        found.append((np.array(corners, np.float32), f"{width}x{height}"))
    return found


def test_areas_are_shares_and_a_line_that_a_piece_cuts_is_read_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_text, "_reader", lambda: _bright)
    frames = np.zeros((4, H, W, 3), np.uint8)
    frames[:, 690:714, 900:1260] = 255  # a banner in the corner
    frames[0, 100:140, 300:400] = 255  # a title, once
    found = text(720)(frames, "")
    banner, title = 24 * 360 / (H * W), 40 * 100 / (H * W)
    assert found["text_area"] == pytest.approx(banner + title / 4, rel=0.02)
    assert found["text_stable"] == pytest.approx(banner, rel=0.02)
    assert found["text_frames"] == 1
    assert {"360x24", "100x40"} <= set(found["text_lines"])
    # Whole at half the size, besides.
    assert set(found["text_lines"]) <= {"360x24", "100x40", "180x12", "50x20"}
    across = np.zeros((2, H, W, 3), np.uint8)
    across[1, 330:400, 100:1200] = 255
    found = text(720)(across, "")
    assert found["text_lines"] == ["550x35"]
    assert (found["text_frames"], found["text_stable"]) == (0.5, 0)
    assert text(720)(frames[:1], "")["text_stable"] is None
    assert text(720)(np.zeros((2, 9, 7, 3), np.uint8), "")["text_area"] == 0


def test_signs_single_letters_and_guesses_are_no_text() -> None:
    for line, confidence in (("■", 0.99), ("：", 0.9), ("O", 0.99), ("豆", 0.99), ("HL", 0.67), ("", 1.0)):
        assert not score_text.is_text(line, confidence)
    for line, confidence in (("Episode 12", 0.6), ("TV", 0.95), ("出口", 0.95), ("12:30", 0.6)):
        assert score_text.is_text(line, confidence)


def test_pieces_cover_a_picture_and_overlap() -> None:
    for length in (1, 400, 401, 720, 1080, 2160):
        cuts = score_text._cuts(length, 400)
        assert (cuts[0][0], cuts[-1][1]) == (0, length)
        assert all(high - low <= 400 for low, high in cuts)
        assert all(before[1] - low >= 48 for before, (low, _) in pairwise(cuts))


def _drawn(words: str, pixels: int, at: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] over a texture with words whose capitals are so many pixels high."""
    ground = np.repeat(60 + texture(7, *size, blur=6.0)[..., None] // 2, 3, axis=-1)
    image = Image.fromarray(ground)
    ImageDraw.Draw(image).text(at, words, fill=(255, 255, 255), font=ImageFont.load_default(pixels / 0.72))
    return np.asarray(image)


def test_planted_titles_are_found_and_read(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="rapidocr is not installed (extra ocr)")
    for name, size in (("small", (360, 640)), ("large", (720, 1280))):
        frame = _drawn("Episode 12", 13, (size[1] // 2, size[0] // 3), size)
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
        Image.fromarray(_drawn("", 13, (0, 0), size)).save(tmp_path / f"{name}_none.png")
    config = ScoresConfig(text=TextConfig(), quality=QualityConfig())
    rows = scored(tmp_path, [path.name for path in sorted(tmp_path.iterdir())], config)
    for name, size in (("small", (360, 640)), ("large", (720, 1280))):
        found = rows[f"{name}.png"]
        assert found["text_lines"] == ["Episode 12"]
        assert (found["text_frames"], found["text_stable"]) == (1, None)
        # Capitals of 13 pixels, some 90 wide, and what the detector leaves around them.
        assert 0.7 < found["text_area"] * size[0] * size[1] / (13 * 90) < 4
        none = rows[f"{name}_none.png"]
        assert (none["text_area"], none["text_frames"], none["text_lines"]) == (0, 0, [])
        assert none["sharpness"] is not None


def test_large_plain_things_are_no_text(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr", reason="rapidocr is not installed (extra ocr)")
    frame = np.full((320, 480, 3), 60, np.uint8)
    cv2.circle(frame, (240, 160), 70, (250, 30, 30), -1, cv2.LINE_AA)
    Image.fromarray(frame).save(tmp_path / "disc.png")
    cv2.rectangle(frame, (160, 80), (320, 240), (30, 250, 30), -1)
    Image.fromarray(frame).save(tmp_path / "square.png")
    rows = scored(tmp_path, ["disc.png", "square.png"], ScoresConfig(text=TextConfig()))
    assert [row["text_frames"] for row in rows.values()] == [0, 0]
