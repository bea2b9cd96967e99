"""Every message that troubleshooting quotes is in the code, every reason and exit code too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from curation.schema import Reason
from tests.docs.pages import PAGES, ROOT, table_rows

PAGE = ROOT / "docs" / "troubleshooting.md"
_GAP = "\0"
"""In place of what a message is given."""


def templates() -> Iterator[str]:
    """Every text of the code, with a mark for each value that is put into it."""
    for package in ("lumina", "curation", "jobs", "pipelines"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else _GAP for part in node.values)
                    yield "".join(str(part) for part in parts)


MESSAGES = [(number, cells[0].strip("`")) for number, cells in table_rows(PAGE, "message")]


def test_the_messages_are_in_the_code() -> None:
    texts = sorted(set(templates()))
    for line, message in MESSAGES:
        words = [part.strip() for part in message.split("…") if part.strip()]
        pattern = re.compile(".*".join(map(re.escape, words)), re.DOTALL)
        found = any(pattern.search(text) for text in texts if max(words, key=len) in text)
        assert found, f"troubleshooting.md:{line}: no text of the code is like {message!r}"
        assert max(map(len, words)) >= 12, f"line {line}: {message!r} says too little"


def test_most_pages_lead_there_and_all_reasons_are_explained() -> None:
    assert len(MESSAGES) > 60
    named = {name for _, cells in table_rows(PAGE, "reason") for name in re.findall(r"`([a-z_]+)`", cells[0])}
    assert named <= set(Reason)
    # Those of `select` are named after the setting that they enforce.
    rules = {reason for reason in Reason if reason.startswith(("min_", "max_"))}
    rules |= {Reason.SCORE, Reason.SOURCE_QUOTA, Reason.OTHER_MEDIA}
    assert set(Reason) - rules == named
    assert sum("troubleshooting.md" in page.read_text(encoding="utf-8") for page in PAGES) >= 5
