"""System prompts: composition, identity, file round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.system_prompts import (
    RELEASED_SYSTEM_PROMPT,
    SystemPrompt,
    compose,
    read_system_prompts,
    system_prompt_id,
    text_id,
    write_system_prompts,
)


def test_compose_and_drop() -> None:
    assert compose("a film. <Prompt Start> ", " red circle ") == "a film. <Prompt Start> red circle"
    assert compose(RELEASED_SYSTEM_PROMPT, "") == RELEASED_SYSTEM_PROMPT
    with pytest.raises(ValueError, match="must end with"):
        compose("a film.", "red circle")


def test_ids_are_stable() -> None:
    assert text_id("a") == "27c35e6e9373877f29e562464e46497e"
    assert len(system_prompt_id("a")) == 16
    assert text_id("a") != text_id("a ")


def test_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "system_prompts.json"
    prompts = [SystemPrompt("web", "w <Prompt Start> "), SystemPrompt("anime", "ä <Prompt Start> ")]
    write_system_prompts(path, prompts)
    assert read_system_prompts(path) == {"anime": prompts[1], "web": prompts[0]}
    rows = json.loads(path.read_text())
    rows[0]["text"] = "changed"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="anime"):
        read_system_prompts(path)
