from __future__ import annotations

import pytest
from pydantic import ValidationError

from curation.sources import SourceError, TagConfig, check_sources


def test_own_prompts_come_before_the_template() -> None:
    config = TagConfig(system_prompts={"web": "A web video."}, template="Clips of {source}. <Prompt Start>")
    assert [(p.source, p.text) for p in check_sources(["zoo", "web", "web"], config)] == [
        ("web", "A web video. <Prompt Start> "), ("zoo", "Clips of zoo. <Prompt Start> ")
    ]  # fmt: skip


def test_a_source_without_a_prompt_is_named() -> None:
    with pytest.raises(SourceError, match="no system prompt for the source\\(s\\) 'a', 'b'"):
        check_sources(["b", "web", "a"], TagConfig(system_prompts={"web": "x"}))


def test_useless_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"must contain \{source\}"):
        TagConfig(template="the same for all")
    with pytest.raises(ValidationError, match="system prompts of web are empty"):
        TagConfig(system_prompts={"web": " "})
