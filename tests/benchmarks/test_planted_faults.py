"""Planted faults: what is planted is what is said, and precision and recall are counted from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import planted_clips as made
from benchmarks import planted_faults as measured


def test_a_plan_is_the_same_every_time_and_holds_every_kind() -> None:
    plan = made.plan(300, None)
    again = made.plan(300, None)
    assert [replace(clip, write=print) for clip in plan] == [replace(clip, write=print) for clip in again]
    assert {clip.kind: sum(one.kind == clip.kind for one in plan) for clip in plan} == made.PARTS
    assert {clip.kind for clip in made.plan(20, None)} == set(made.PARTS)
    assert len({clip.name for clip in plan}) == 300
    # Each copy's first is there, unchanged; nothing else shows what another clip does.
    copies = dict(made.pairs_of(plan))
    assert len(copies) == sum(made.PARTS[kind] for kind in made.COPIES)
    others = [clip.base for clip in plan if clip not in copies]
    assert len(others) == len(set(others))


def test_clips_of_another_number_are_not_taken_for_these(tmp_path: Path) -> None:
    some, more = ([replace(clip, write=lambda path: path.write_bytes(b"")) for clip in made.plan(number, None)]
                  for number in (20, 40))  # fmt: skip
    for _ in range(2):
        made.write(tmp_path / "clips", some)
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {clip.name for clip in some}
    with pytest.raises(SystemExit, match="name an empty folder for --work"):
        made.write(tmp_path / "clips", more)


def test_letters_have_the_height_that_is_said() -> None:
    for font in made.fonts_found():
        for pixels in (8, 13, 40):
            assert abs(len(made.cut_out("H", pixels, font)) - pixels) <= 1


def test_titles_come_and_go_and_banners_stay() -> None:
    frames, rng = np.full((20, 120, 200, 3), 90, np.uint8), np.random.default_rng(0)
    for banner, share in ((False, 0.5), (True, 1.0)):
        drawn = made.Drawn("LIVE", 12, 0, banner)(frames, 8.0, rng)
        changed = [index for index in range(20) if (drawn[index] != 90).any()]
        assert changed == list(range(changed[0], changed[-1] + 1))
        assert len(changed) == pytest.approx(20 * share, abs=3)


def test_precision_and_recall_are_of_what_was_planted(capsys: pytest.CaptureFixture[str]) -> None:
    clips = [made.Clip(f"{n}.mp4", kind, base, "shapes", "", frozenset(faults), frozenset(unsure), print)
             for n, (kind, base, faults, unsure) in enumerate([
                 ("clean", "a", (), ()), ("clean", "b", (), (made.DARK,)), (made.DARK, "c", (made.DARK,), ()),
                 (made.DARK, "d", (made.DARK,), ()), ("cropped", "a", (), ()), ("mirrored", "b", (), ()),
             ])]  # fmt: skip
    failed: dict[str, list[str]] = {"0.mp4": ["score:luma"], "1.mp4": ["score:luma"], "2.mp4": ["score:luma"]}
    cluster = dict(zip((clip.name for clip in clips), "000304", strict=True)) | {"1.mp4": "1", "2.mp4": "1"}
    rows: dict[str, dict[str, Any]] = {
        clip.name: {"failed_rules": failed.get(clip.name, []), "cluster": cluster[clip.name], "text_lines": []}
        | {"family": "1" if clip.base == "b" else cluster[clip.name]}
        for clip in clips
    }
    measured.faults(clips, rows)
    measured.copies(clips, rows)
    told = capsys.readouterr().out
    assert "| dark | `luma min 0.08` | 0.500 (1/2) | 0.500 (1/2) | clean 1 |" in told
    assert "| blurred | `sharpness min" in told
    assert "| cropped | 1.000 (1/1) |" in told
    assert "| mirrored | 1.000 (1/1) |" in told
    assert "| pairs of different clips in a cluster | 1 |\n| 1.mp4 | 2.mp4 |" in told
