"""Character encoding: text from outside is read as what it is, or refused with the place where it is none.

A byte order mark says how bytes are encoded; bytes without one are UTF-8. Nothing is guessed and nothing replaced: a
guess that fails is a caption of garbage that nobody sees.
"""

from __future__ import annotations

import codecs
import re

_MARKS = (  # that of UTF-32 LE begins with that of UTF-16 LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
MARK_BYTES = max(len(mark) for mark, _ in _MARKS)
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")


class TextError(ValueError):
    """What was read is no text; the message says where, and what to do.

    Args:
        message: one line.
        line: where it is, from 1.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


def encoding_of(head: bytes) -> tuple[str, int]:
    """The encoding of a file that begins with these bytes (`MARK_BYTES` or all), and the bytes of its mark."""
    return next(((name, len(mark)) for mark, name in _MARKS if head.startswith(mark)), ("utf-8", 0))


def decode(data: bytes) -> str:
    """The text of a whole file, without its byte order mark. TextError if it is none."""
    name, mark = encoding_of(data)
    try:
        return data[mark:].decode(name)
    except UnicodeDecodeError as error:
        before = data[mark : mark + error.start].decode(name)
        message = not_text(mark + error.start, data[mark + error.start], name)
        raise TextError(message, len(before.replace("\r\n", "\n").replace("\r", "\n").split("\n"))) from error


def not_text(offset: int, byte: int, encoding: str = "utf-8") -> str:
    """A message: the byte at this offset from the file's start (0 is the first) does not belong there."""
    return f"byte {offset} (0x{byte:02x}) is not {encoding.upper()}: save it as UTF-8"


def caption_of(text: str) -> str:
    """A caption as it is kept: line ends are `\\n`, and no blanks or byte order marks stand around it.

    TextError for a control character: that is another encoding (UTF-16 without a mark, ISO-2022), or damage.
    """
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").strip()
    found = _CONTROL.search(text)
    if found is None:
        return text
    where = f"character {found.start() + 1} of the caption is"
    if found[0] == "\0":
        raise TextError(f"{where} NUL, as in UTF-16 without a byte order mark: save it as UTF-8")
    raise TextError(f"{where} the control character U+{ord(found[0]):04X}: take it out, or save it as UTF-8")
