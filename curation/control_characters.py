"""Control characters: text from outside is shown with their numbers, wherever people read it.

A terminal obeys them (it clears its screen, takes another title, writes to the clipboard), and marks of the writing
direction turn round what stands beside them. What is kept stays as it is; only what is shown goes through here.
"""

from __future__ import annotations

import re

_LINES = "\n\t"
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SEPARATORS = "\u2028\u2029"
_SURROGATES = "\ud800-\udfff"
_ALL = f"\0-\x1f\x7f-\x9f{_DIRECTIONS}{_SEPARATORS}{_SURROGATES}"
CONTROL = re.compile(f"[{_ALL}]")
"""One character that is not shown but obeyed, or that is none (half a surrogate pair)."""
_BUT_LINES = re.compile(f"(?![{_LINES}])[{_ALL}]")
_BYTE = 0xDC00
"""What `os.fsdecode` adds to a byte that is no UTF-8."""


def shown(text: str) -> str:
    """Text as people may see it: `\\x1b` for ESC, `\\u202e` for an override, `\\xe9` for a byte that is no UTF-8.

    Line ends and tabs stay.
    """
    return _BUT_LINES.sub(_numbered, text)


def shown_in_line(text: str) -> str:
    """As `shown`, with line ends and tabs as `\\n` and `\\t` too: a name cannot look like two lines."""
    return CONTROL.sub(_numbered, text)


def shown_in_json(text: str) -> str:
    """JSON with the same meaning in which no control character stands."""
    return _BUT_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _numbered(found: re.Match[str]) -> str:
    number = ord(found[0])
    if _BYTE + 0x80 <= number <= _BYTE + 0xFF:
        return f"\\x{number - _BYTE:02x}"
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0])
    return named or (f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}")
