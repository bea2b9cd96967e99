"""Picture quality without a reference: sharpness, exposure, saturation, black bars, duplicate frames, combs.

Luma is OpenCV's grey of RGB, 0..255. Frames are looked at one by one as they are decoded: what is kept of the sampled
ones has a short side of 512 pixels at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.short_side import to_short_side

Image = NDArray[np.uint8]

BLACK, WHITE = 5, 250
"""Luma up to which, and from which on, a pixel counts as clipped."""
_LIT, _LIT_MORE, _LIT_CONTRAST = 24, 4, 0.1
"""Luma above which a pixel is none of a bar: bars are 0 or 16, and what a codec adds at their edge. In a dark picture
less: so many levels, and such a share of what there is between the darkest and the brightest percent, above the former.
"""
_LIT_SHARE = 0.02
_STEP, _STEP_SHARE, _STEP_MORE = 0.02, 0.4, 2
"""A bar ends at a straight line: within this share of the side a row has so many pixels, of what the brightest row has,
that are brighter by so many more levels, or it is none. Dark ground that turns brighter bit by bit is no bar, nor is
what is above a title on it."""
_BLOCK = 16
_SAME_SHARE, _SAME, _SAME_MOST = 0.1, 2.0, 8.0
"""Share of what frames of the clip usually differ by that one frame may that is shown, and encoded, twice; that is
levels of its worst block: the second at least, for noise, and the third at most."""
_MOVED = 10
_MOVED_SHARE = 0.001
_COMBED = 1.2
_EDGE = 2
"""Pixels beside a bar that are none of the picture: a codec blurs the edge."""


def luma_of(frame: Image) -> Image:
    """Luma [H, W] of a frame [H, W, 3]."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def lit_from(luma: Image) -> float:
    """Luma above which a pixel of the frame [H, W] belongs to the picture and to no bar."""
    step = 1 + min(luma.shape) // 256
    counts = np.bincount(luma[::step, ::step].ravel(), minlength=256).cumsum()
    darkest, brightest = (int(np.searchsorted(counts, share * counts[-1])) for share in (0.01, 0.99))
    return float(min(_LIT, darkest + max(_LIT_MORE, _LIT_CONTRAST * (brightest - darkest))))


def difference(before: Image, after: Image) -> float:
    """Levels that two lumas [H, W] differ by: the mean over the block of 16x16 in which it is largest."""
    levels = cv2.absdiff(before, after).astype(np.float32)
    height, width = levels.shape
    blocks = cv2.resize(levels, (-(-width // _BLOCK), -(-height // _BLOCK)), interpolation=cv2.INTER_AREA)
    return float(blocks.max())


def duplicates(differences: Sequence[float]) -> float | None:
    """Share of frames that show what the one before does, by the `difference` of each pair; None without a pair."""
    if not differences:
        return None
    usual = float(np.quantile(differences, 0.75))
    return float(np.mean(np.asarray(differences) < np.clip(_SAME_SHARE * usual, _SAME, _SAME_MOST)))


def is_combed(before: Image, after: Image) -> bool:
    """Whether the luma `after` holds two fields of different times, as far as something moved since `before`.

    Where it did, a row is nearer to the one after the next than to the next: never so in a frame of one time, whose
    rows differ the more the further they are apart, but for stripes one row wide.
    """
    if len(after) < 3:
        return False
    moved = cv2.absdiff(before, after)[:-2] > _MOVED
    if moved.sum() < _MOVED_SHARE * after.size:
        return False
    near, far = (cv2.absdiff(after[:-2], after[step : len(after) - 2 + step])[moved] for step in (1, 2))
    return float(near.mean(dtype=np.float64)) > _COMBED * float(far.mean(dtype=np.float64))


@dataclass
class Quality:
    """What is gathered of one clip's frames."""

    short_side: int
    """Pixels of the short side in which sharpness is measured; smaller frames stay as they are."""
    _differences: list[float] = field(default_factory=list)
    _combed: list[bool] = field(default_factory=list)
    _small: list[Image] = field(default_factory=list)
    _rows: NDArray[np.float64] | None = None
    _columns: NDArray[np.float64] | None = None
    """[2, n]: largest share of lit, and of brighter pixels of each row and column over the sampled frames."""

    def follow(self, before: Image, after: Image) -> None:
        """Look at two frames' luma that are shown one after another."""
        self._differences.append(difference(before, after))

    def sample(self, frame: Image, luma: Image, before: Image | None) -> None:
        """Look at a sampled frame [H, W, 3], its luma, and that of the frame before where there is one."""
        least = lit_from(luma)
        lit = [(luma > least + more).view(np.uint8) for more in (0, _STEP_MORE)]
        row_share, column_share = (
            np.stack([cv2.reduce(one, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for one in lit])
            / luma.shape[axis]
            for axis in (1, 0)
        )
        self._rows = row_share if self._rows is None else np.maximum(self._rows, row_share)
        self._columns = column_share if self._columns is None else np.maximum(self._columns, column_share)
        if before is not None:
            self._combed.append(is_combed(before, luma))
        size = min(self.short_side, *luma.shape)
        self._small.append(to_short_side(frame[None], (size, size))[0])

    def found(self) -> dict[str, float | None]:
        """The columns of `quality`; null what takes two frames and had one."""
        if self._rows is None or self._columns is None:
            raise ValueError("quality needs a frame")
        (top, bottom), (left, right) = (_inside(shares) for shares in (self._rows, self._columns))
        height, width = self._rows.shape[1], self._columns.shape[1]
        if top == bottom or left == right:  # all black: the whole picture is a bar
            top, bottom, left, right = 0, 0, 0, 0
        bar_rows, bar_columns = 1 - (bottom - top) / height, 1 - (right - left) / width
        measured = [_measured(_cut(image, (top / height, bottom / height, left / width, right / width)))
                    for image in self._small]  # fmt: skip
        return {
            **{name: float(np.mean([one[name] for one in measured])) for name in measured[0]},
            "bar_rows": bar_rows,
            "bar_columns": bar_columns,
            "black_bars": 1 - (1 - bar_rows) * (1 - bar_columns),
            "duplicate_frames": duplicates(self._differences),
            "combed_frames": float(np.mean(self._combed)) if self._combed else None,
        }


def _inside(shares: NDArray[np.float64]) -> tuple[int, int]:
    """First of the rows that are no bar, and the one after their last."""
    lit = np.flatnonzero(shares[0] > _LIT_SHARE)
    if not len(lit):
        return 0, 0
    length = shares.shape[1]
    first, end, near = int(lit[0]), int(lit[-1]) + 1, max(4, round(_STEP * length))
    bright = shares[1]
    if bright[first : first + near].max() < _STEP_SHARE * bright.max():
        first = 0
    if bright[max(0, end - near) : end].max() < _STEP_SHARE * bright.max():
        end = length
    return first, end


def _cut(image: Image, box: tuple[float, float, float, float]) -> Image:
    """What is inside of the bars, in shares of the sides: top, bottom, left, right."""
    top, bottom, left, right = box
    if top == bottom:
        return image
    height, width = image.shape[:2]
    rows = _without_edge(top * height, bottom * height, height)
    columns = _without_edge(left * width, right * width, width)
    return image[rows, columns]


def _without_edge(first: float, end: float, length: int) -> slice:
    low = int(np.ceil(first)) + _EDGE * (first > 0)
    high = int(np.floor(end)) - _EDGE * (end < length)
    return slice(low, high) if high > low else slice(0, length)


def _measured(image: Image) -> dict[str, float]:
    luma = luma_of(image)
    return {
        "sharpness": float(cv2.Laplacian(luma, cv2.CV_32F, ksize=1).var(dtype=np.float64)),
        "luma": float(luma.mean(dtype=np.float64)) / 255,
        "black_clipped": float((luma <= BLACK).mean()),
        "white_clipped": float((luma >= WHITE).mean()),
        "saturation": float((image.max(axis=2) - image.min(axis=2)).mean(dtype=np.float64)) / 255,
    }
