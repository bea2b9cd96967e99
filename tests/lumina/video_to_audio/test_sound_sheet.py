"""Sheets of spectrograms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lumina.video_to_audio.sound_sheet import Sounding, write_sheet


def test_a_sheet_has_a_place_for_every_sound_and_ticks_for_its_times(tmp_path: Path) -> None:
    wave = torch.zeros(16_000)
    events, onsets = [(0.25, True), (0.75, False)], [0.5]
    write_sheet(tmp_path / "with.png", [Sounding("a", wave, events, onsets), Sounding("b", wave), Sounding("c", wave)])
    write_sheet(tmp_path / "without.png", [Sounding(name, wave) for name in "abc"])
    ticked, plain = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("with", "without"))
    assert ticked.size == plain.size == (2 * (100 + 10) + 10, 2 * (14 + 2 * 10 + 128 + 10) + 10)
    differing = {
        (x - 10, y) for x in range(ticked.width) for y in range(ticked.height)
        if ticked.getpixel((x, y)) != plain.getpixel((x, y))
    }  # fmt: skip
    columns = {round(x / 25) * 25 for x, _ in differing}
    assert columns == {25, 50, 75}
    rows = {time: sum(round(x / 25) * 25 == time for x, _ in differing) for time in columns}
    assert rows[25] > rows[75] > 0


def test_a_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a sheet needs a sound"):
        write_sheet(tmp_path / "s.png", [])
