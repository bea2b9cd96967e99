"""The tables of a run's sounds, and its cost."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

from pipelines.reports.sounds import SHOWN, Sounds, sounds_view


def _text(view: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def _ends(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.125, "high": value + 0.125}


def _content(**conditions: dict[str, dict[str, float] | dict[str, None]]) -> dict[str, Any]:
    given_minus = {"nothing": {name: _ends(-0.5) for name in SHOWN}, "visual_shuffled": {"onset_f1_50ms": _ends(0.001)}}
    return {"checkpoint": "train@1", "clips": 18, "conditions": conditions, "given_minus": given_minus}


def test_conditions_come_in_order_with_what_each_takes_away() -> None:
    content = _content(
        nothing={"onset_f1_50ms": _ends(0.25)},
        given={"onset_f1_50ms": _ends(0.75), "mel_l1": {"value": None}},
        truth={"onset_f1_50ms": _ends(1.0)},
    )
    said = "train@2 against train@1 on the same 18 clips: no difference is shown."
    lines = _text(sounds_view(Sounds({"evaluate@1": content}, {"found": said}))).splitlines()
    assert "Sounds of train@1 on 18 held-out clips" in lines[0]
    rows = [line.split() for line in lines if line.split()[:1] in (["truth"], ["given"], ["nothing"])]
    assert [row[0] for row in rows] == ["truth", "given", "nothing", "nothing"]
    assert rows[1] == ["given", "0.75", "[0.62,", "0.88]", "–", "–"]
    assert rows[3] == ["nothing", *["−0.50", "[−0.62,", "−0.38]"] * 2]
    assert said in [line.strip() for line in lines]


def test_no_interval_is_cut_off_in_eighty_columns() -> None:
    figures = {name: _ends(-0.5) for name in SHOWN}
    wide = {name: _ends(0.5) if name != "av_align_v2025_excess" else _ends(-0.05) for name in SHOWN}
    content = _content(visual_shuffled=wide, given=wide)
    content["given_minus"] = {"visual_shuffled": figures}
    text = _text(sounds_view(Sounds({"evaluate@1": content}, {"found": "It is so. " * 30})))
    assert "…" not in text
    assert text.count("[−0.62, −0.38]") == 2
    assert text.count("[−0.17, 0.07]") == 2
    assert max(map(len, text.splitlines())) <= 80
