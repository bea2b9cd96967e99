"""A checksum in the last line of a JSON record, so that a changed byte anywhere in it is noticed.

{
 "schema": ...,
 "checksum": "sha256:<hex of the text without this line>"
}
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from pipelines.engine.store.typed import parse

_LINE = re.compile(r',\n "checksum": "(sha256:[0-9a-f]{64})"\n\}\n\Z')
_DIGEST_LENGTH = len("sha256:") + 64
_LINE_LENGTH = len(',\n "checksum": ""\n}\n') + _DIGEST_LENGTH


def seal(text: str) -> str:
    """Add the checksum to the JSON text of an object, as `json.dumps(..., indent=1)` gives it."""
    text = text.rstrip("\n")
    return f'{text[:-2]},\n "checksum": "{_digest(text)}"\n}}\n'


def is_whole(text: str) -> bool:
    """Whether a text ends with the checksum of what is before it."""
    match = _LINE.search(text, max(0, len(text) - _LINE_LENGTH))
    return match is not None and _digest(f"{text[: match.start()]}\n}}") == match[1]


def check_seal(text: str) -> Literal["whole", "broken", "none"]:
    """Whether a JSON record is as it was sealed; `none` for one that was written without a checksum.

    Raises:
        ValueError: the text is not a JSON object.
    """
    content = parse(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if is_whole(text):
        return "whole"
    if _LINE.search(text) is not None:
        return "broken"
    # What is damaged may be the line itself.
    last = list(content.values())[-1:]
    return "broken" if last and isinstance(last[0], str) and len(last[0]) == _DIGEST_LENGTH else "none"


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
