from __future__ import annotations

import pytest

from pipelines.commands.options import all_overrides
from pipelines.config import load_config


@pytest.mark.parametrize("text", ["demo", "20260101", "1e3", "null", "yes", "it's", "~/runs", "/data/ä b", "a: b"])
def test_a_store_is_the_text_that_was_given(text: str) -> None:
    assert load_config("demo", all_overrides(["store=other"], None, text)).store == text


def test_a_name_may_look_like_a_number() -> None:
    overrides = all_overrides(["seed=1"], "20260101", None)
    assert overrides[0] == "seed=1"
    assert load_config("demo", overrides[1:]).name == "20260101"


def test_what_is_not_given_changes_nothing() -> None:
    assert all_overrides(None, None, None) == []
