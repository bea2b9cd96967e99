"""One picture of the sounds of an evaluation: spectrograms of the truth and of what was generated, side by side."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina.video_to_audio.lengths import MEL_RATE
from lumina.video_to_audio.log_mel import BINS
from lumina.video_to_audio.spectrograms import spectrogram_png
from lumina.video_to_audio.wav_files import read_wav
from lumina.video_to_audio.waveforms import from_pcm16

IN_NO_DIGEST = True
"""A picture for people: no stage's digest covers it, so no stage is computed again for its sake."""

SHEET_FILE = "spectrograms.png"
_PER_COLUMN, _PER_ROW = 1, 2
"""Pixels of a sheet for one of a spectrogram."""
_GAP, _LINE, _LETTER, _TICK, _DOT = 10, 14, 6, 10, 2
_FOUND = (26, 127, 55)


@dataclass(frozen=True, eq=False)
class Sounding:
    """One sound of a sheet; times in seconds."""

    caption: str
    wave: Tensor
    """[n] at 16 kHz."""
    events: Sequence[tuple[float, bool]] = ()
    """When something truly begins, and whether it is seen."""
    onsets: Sequence[float] = ()
    """When something was found to begin."""


def write_sheet(path: Path, sounds: Sequence[Sounding], columns: int = 2) -> None:
    """Write a PNG of spectrograms, `columns` in a row, each under its caption.

    Ticks above are true events, dotted where they are off-screen; ticks below are the onsets that were found.

    Raises ValueError without a sound, or as `log_mel`.
    """
    from PIL import Image, ImageDraw

    if not sounds:
        raise ValueError(f"{path}: a sheet needs a sound")
    pictures = [Image.open(io.BytesIO(spectrogram_png(one.wave))).convert("RGB") for one in sounds]
    width = _PER_COLUMN * max(picture.width for picture in pictures) + _GAP
    height = _LINE + 2 * _TICK + _PER_ROW * BINS + _GAP
    rows = -(-len(sounds) // columns)
    sheet = Image.new("RGB", (min(columns, len(sounds)) * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (one, picture) in enumerate(zip(sounds, pictures, strict=True)):
        left, top = _GAP + (number % columns) * width, _GAP + (number // columns) * height
        draw.text((left, top), one.caption[: width // _LETTER], fill="black")
        above, below = top + _LINE, top + _LINE + _TICK + _PER_ROW * BINS
        size = (_PER_COLUMN * picture.width, _PER_ROW * BINS)
        sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (left, above + _TICK))
        for time, seen in one.events:
            x = left + round(_PER_COLUMN * MEL_RATE * time)
            for y in range(0, _TICK, _DOT if seen else 2 * _DOT):
                draw.rectangle((x, above + y, x + 1, above + y + _DOT - 1), fill="black")
        for time in one.onsets:
            x = left + round(_PER_COLUMN * MEL_RATE * time)
            draw.rectangle((x, below, x + 1, below + _TICK - 1), fill=_FOUND)
    sheet.save(path, "PNG", optimize=True)


def draw_sheet(out: Path, rows: Iterable[Mapping[str, Any]], clips: int) -> tuple[str, ...]:
    """Write `spectrograms.png` of the first clips of an output; return its name, or nothing where none are to be shown.

    Args:
        out: holds the sounds.
        rows: of the output, those of `truth` and `given` among them.
        clips: at most.
    """
    kept = {(row["clip_id"], row["condition"]): row for row in rows if row["sound"]}
    names = sorted({clip for clip, condition in kept if condition == "given"})[:clips]
    sounds = [
        Sounding(
            f"{clip[:12]} {condition}",
            from_pcm16(read_wav(out / row["sound"])[0]),
            list(zip(row["event_times_s"] or (), row["event_seen"] or (), strict=True)),
            row["onset_times_s"] or (),
        )
        for clip in names
        for condition in ("truth", "given")
        if (row := kept.get((clip, condition))) is not None
    ]
    if not sounds:
        return ()
    write_sheet(out / SHEET_FILE, sounds)
    return (SHEET_FILE,)
