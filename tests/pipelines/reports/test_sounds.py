"""The tables of a run's sounds, and its cost."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from pipelines.reports.sounds import Sounds, sounds_view


def _text(view: RenderableType) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def _ends(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.125, "high": value + 0.125}


def test_conditions_come_in_order_with_what_each_takes_away() -> None:
    content = {
        "checkpoint": "train@1",
        "clips": 18,
        "conditions": {
            "nothing": {"onset_f1_50ms": _ends(0.25)},
            "given": {"onset_f1_50ms": _ends(0.75), "mel_l1": {"value": None}},
            "truth": {"onset_f1_50ms": _ends(1.0)},
        },
        "given_minus": {"nothing": {"onset_f1_50ms": _ends(0.5)}},
    }
    said = "train@2 against train@1 on the same 18 clips: no difference is shown."
    lines = _text(sounds_view(Sounds({"evaluate@1": content}, {"found": said}))).splitlines()
    assert "Sounds of train@1 on 18 held-out clips" in lines[0]
    rows = [line.split() for line in lines if line.split()[:1] in (["truth"], ["given"], ["nothing"])]
    assert [row[0] for row in rows] == ["truth", "given", "nothing"]
    assert "0.5" in " ".join(rows[-1])
    assert "0.375" in " ".join(rows[-1])
    assert said in lines
