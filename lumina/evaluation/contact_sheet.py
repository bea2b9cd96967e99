"""One picture of many clips: the first, middle and last frame of each, with its prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IN_NO_DIGEST = True
"""A picture for people: no stage's digest covers it, so no stage is computed again for its sake."""

_FRAME = 112
_STRIP = 8
_GAP = 4
_LINES = 3
_LINE = 13


@dataclass(frozen=True)
class Sheet:
    """One clip of a contact sheet."""

    caption: str
    frames: NDArray[np.uint8]
    """[T, H, W, 3]."""


def write_contact_sheet(path: Path, clips: Sequence[Sheet], columns: int = 3) -> None:
    """Write a PNG with three frames of each clip above its prompt, `columns` clips in a row."""
    from PIL import Image, ImageDraw

    width, height = 3 * _FRAME + 3 * _GAP, _FRAME + _LINES * _LINE + 2 * _GAP
    columns = min(columns, len(clips))
    rows = -(-len(clips) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, clip in enumerate(clips):
        left, top = (number % columns) * width, (number // columns) * height
        for place, index in enumerate((0, len(clip.frames) // 2, len(clip.frames) - 1)):
            frame = Image.fromarray(clip.frames[index])
            scale = _FRAME / max(frame.size)
            # Small frames keep their pixels visible; large ones are averaged down.
            method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
            frame = frame.resize((round(frame.width * scale), round(frame.height * scale)), method)
            sheet.paste(frame, (left + place * (_FRAME + _GAP), top))
        for line, text in enumerate(textwrap.wrap(clip.caption, width=55)[:_LINES]):
            draw.text((left, top + _FRAME + _GAP + line * _LINE), text, fill="black")
    sheet.save(path)


def write_strip(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write a PNG with up to eight frames of a clip [T, H, W, 3] in a row, evenly spaced, the first and last among
    them."""
    from PIL import Image

    count = min(_STRIP, len(frames))
    places = [round(number * (len(frames) - 1) / max(1, count - 1)) for number in range(count)]
    scale = _FRAME / max(frames.shape[1:3])
    size = (max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    strip = Image.new("RGB", (count * (size[0] + _GAP) - _GAP, size[1]), "white")
    for number, place in enumerate(places):
        strip.paste(Image.fromarray(frames[place]).resize(size, method), (number * (size[0] + _GAP), 0))
    strip.save(path, format="PNG")
