"""OCR of sampled frames: how much of the picture is under text, how much of it stands still, and what it says.

By rapidocr (PP-OCR's detection and recognition networks in onnxruntime; Apache-2.0), whose weights come in its wheel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.short_side import to_short_side

if TYPE_CHECKING:
    from curation.score_networks import Frames, Scorer

_TILE = 400, 672
"""(height, width) of the pieces that are read: in larger pictures the detector misses small text, of 12 pixels in
720 lines half."""
_OVERLAP = 48
_WHOLE = 360
"""Short side in which the whole picture is read besides, for text that is larger than a piece."""
_BORDER = 3
_STABLE_SHARE = 0.75
"""Share of the sampled frames in which a place has to be under text to be stably so."""

_FEW, _SURE = 4, 0.9
"""A line of fewer letters and digits is taken for text only where the network is so sure of it: of large plain things
it says that they read `ME` or `HL`, with at most 0.7."""

Read = Callable[[NDArray[np.uint8]], "list[tuple[NDArray[np.float32], str]]"]
"""Boxes [4, 2] in pixels, and what they say, of a picture [H, W, 3]."""


def text(short_side: int) -> Scorer:
    """The columns of `text`, of frames that are reduced to `short_side` pixels where they are larger.

    `text_stable` is null of a single frame. Raises FileNotFoundError if the wheel came without its weights.
    """
    read = _reader()

    def score(frames: Frames, _caption: str) -> dict[str, Any]:
        side = min(short_side, *frames.shape[1:3])
        lines, areas = set[str](), []
        under = np.zeros(to_short_side(frames[:1], (side, side)).shape[1:3], np.int32)
        for frame in frames:
            mask, said = _looked_at(read, to_short_side(frame[None], (side, side))[0])
            under += mask
            areas.append(float(mask.mean()))
            lines |= said
        stable = under >= math.ceil(_STABLE_SHARE * len(frames))
        return {
            "text_area": float(np.mean(areas)),
            "text_frames": float(np.mean([area > 0 for area in areas])),
            "text_stable": float(stable.mean()) if len(frames) > 1 else None,
            "text_lines": sorted(lines),
        }

    return score


def _looked_at(read: Read, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], set[str]]:
    """Where a picture [H, W, 3] is under text, 0 or 1 [H, W], and the lines that it says."""
    mask, lines = np.zeros(picture.shape[:2], np.uint8), set[str]()
    for piece in _pieces(picture):
        for box, line in read(piece.pixels):
            corners = piece.corner + box / piece.scale
            cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
            if not piece.cuts(box):
                lines.add(line)
    return mask, lines


class _Piece(NamedTuple):
    """A part of a picture, or all of it in another size."""

    pixels: NDArray[np.uint8]
    corner: NDArray[np.float32]
    """(x, y) of its upper left one."""
    scale: float
    inner: tuple[bool, bool, bool, bool]
    """Whether its left, upper, right and lower border is within the picture."""

    def cuts(self, box: NDArray[np.float32]) -> bool:
        """Whether a box reaches to where the piece was cut out: its line is read in another piece."""
        (left, upper), (right, lower) = box.min(axis=0), box.max(axis=0)
        height, width = self.pixels.shape[:2]
        touches = left < _BORDER, upper < _BORDER, right > width - _BORDER, lower > height - _BORDER
        return any(inner and touched for inner, touched in zip(self.inner, touches, strict=True))


def _pieces(picture: NDArray[np.uint8]) -> Iterator[_Piece]:
    height, width = picture.shape[:2]
    rows, columns = _cuts(height, _TILE[0]), _cuts(width, _TILE[1])
    for top, bottom in rows:
        for left, right in columns:
            inner = (left > 0, top > 0, right < width, bottom < height)
            corner = np.array([left, top], np.float32)
            yield _Piece(np.ascontiguousarray(picture[top:bottom, left:right]), corner, 1.0, inner)
    if len(rows) * len(columns) > 1:
        small = to_short_side(picture[None], (_WHOLE, _WHOLE))[0]
        yield _Piece(small, np.zeros(2, np.float32), small.shape[0] / height, (False,) * 4)


def _cuts(length: int, most: int) -> list[tuple[int, int]]:
    """Ends of pieces of at most so many pixels that overlap, as few as there can be."""
    if length <= most:
        return [(0, length)]
    count = math.ceil((length - _OVERLAP) / (most - _OVERLAP))
    starts = [round(index * (length - most) / (count - 1)) for index in range(count)]
    return [(start, start + most) for start in starts]


def is_text(line: str, confidence: float) -> bool:
    """Whether what was read is text. Single letters and signs are none: discs, squares and people are read as such."""
    letters = sum(map(str.isalnum, line))
    return letters > 1 and (letters >= _FEW or confidence >= _SURE)


def _reader() -> Read:
    import rapidocr

    models = Path(rapidocr.__file__).parent / "models"
    settings: dict[str, Any] = {
        "Global.use_cls": False,
        "Global.log_level": "critical",
        # At the piece's own size.
        "Det.limit_side_len": 32,
        # One thread: sums in a fixed order, so the scores do not depend on the machine's cores.
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    for part in ("Det", "Rec"):
        found = sorted(models.glob(f"*_{part.lower()}_*.onnx"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"scores.text: {models} has {len(found)} networks *_{part.lower()}_*.onnx instead of one, and none is "
                "ever fetched: `pip install --force-reinstall rapidocr` brings it"
            )
        settings[f"{part}.model_path"] = str(found[0])
    engine = rapidocr.RapidOCR(params=settings)

    def read(picture: NDArray[np.uint8]) -> list[tuple[NDArray[np.float32], str]]:
        found = engine(np.ascontiguousarray(picture[..., ::-1]))
        if found.txts is None:
            return []
        return [
            (np.asarray(box, np.float32), line)
            for box, line, confidence in zip(found.boxes, found.txts, found.scores, strict=True)
            if is_text(line, confidence)
        ]

    return read
