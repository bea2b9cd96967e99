"""Control characters are shown with their numbers; all other text is as it was."""

from __future__ import annotations

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from curation.control_characters import CONTROL, shown, shown_in_json, shown_in_line

BOLD = "\x1b[1mred\x1b[0m \x9b2J \u202eevil\u2066 \x07\b\r\x7f"


def test_what_a_terminal_obeys_is_told_by_its_number() -> None:
    assert shown(BOLD) == r"\x1b[1mred\x1b[0m \u009b2J \u202eevil\u2066 \x07\x08\r\x7f"
    assert shown("two\nlines\tand \u2028 more") == "two\nlines\tand \\u2028 more"
    assert shown_in_line("two\nlines\t\r") == r"two\nlines\t\r"
    assert shown(os.fsdecode(b"caf\xe9.mp4")) == r"caf\xe9.mp4"
    assert shown("Ein Hündchen 🐕\u200d🦺 läuft, שלום") == "Ein Hündchen 🐕\u200d🦺 läuft, שלום"


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_no_control_character_is_left_and_nothing_else_is_lost(text: str) -> None:
    for made in (shown(text).replace("\n", "").replace("\t", ""), shown_in_line(text)):
        assert not CONTROL.search(made)
        assert [one for one in text if not CONTROL.match(one) and one not in "\\xunrt0123456789abcdef"] == [
            one for one in made if one not in "\\xunrt0123456789abcdef"
        ]
    told = shown_in_json(json.dumps([text], ensure_ascii=False))
    assert not CONTROL.search(told)
    assert json.loads(told) == [text]
