"""The tables of a run's sounds, and its cost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from pipelines.config import load_config
from pipelines.reports.sound_cost import of_sound_pipeline, sound_cost_view
from pipelines.reports.sounds import Sounds, sounds_view
from pipelines.sound_config import SoundPipelineConfig


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


def test_the_cost_is_that_of_the_stages() -> None:
    config = load_config("sound")
    assert isinstance(config, SoundPipelineConfig)
    cost = of_sound_pipeline(config, None, 0.3)
    assert cost.tokens == 200
    assert cost.sampling_flops == 2 * 25 * cost.forward_flops
    one = cost.stages[0]
    assert one.flops == pytest.approx(3 * cost.forward_flops * one.samples * one.steps)
    assert "train@2" in _text(sound_cost_view(cost))
