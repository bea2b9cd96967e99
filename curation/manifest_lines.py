"""Lines of a text file from outside, by number and byte, to be read again where a row was not what it seemed."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.manifest_mistakes import ManifestError, Mistakes
from curation.texts import MARK_BYTES, TextError, decode, encoding_of, not_text

_NOT_TEXT = re.compile("[\ud800-\udfff]")
_OTHER_FILES = (
    (b"PK\3\4", "is an Excel workbook, or another zip archive: save it as CSV UTF-8"),
    (b"PAR1", "is a Parquet file: name it *.parquet"),
    (b"\x1f\x8b", "is compressed: unpack it"),
)
_REREAD_CHARS = 1 << 26


@contextmanager
def text_lines(path: Path, mistakes: Mistakes) -> Iterator[Lines]:
    """The lines of a file. ManifestError for what is no text file, or none in the encoding that its mark names."""
    with path.open("rb") as file:
        head = file.read(MARK_BYTES)
        for magic, what in _OTHER_FILES:
            if head.startswith(magic):
                raise ManifestError(f"manifest {path} {what}")
        encoding, mark = encoding_of(head)
        if not mark and b"\0" in head:
            raise ManifestError(
                f"manifest {path}, line 1: a NUL, as in UTF-16 without a byte order mark: save it as UTF-8"
            )
        file.seek(mark)
        # In UTF-8 the next line is found after any other bytes, so what is none is marked and the rest is read on.
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        text = io.TextIOWrapper(file, encoding, errors, newline="")
        try:
            yield Lines(path, text, mark)
        except UnicodeDecodeError as error:
            if encoding == "utf-8":
                raise
            mistakes.add_encoding(*_place(path, error))
            mistakes.check()
        finally:
            text.detach()


def _place(path: Path, error: UnicodeDecodeError) -> tuple[int, str]:
    try:
        decode(path.read_bytes())
    except TextError as found:
        return found.line, str(found)
    raise error  # the file is another one by now


class Lines(Iterator[str]):
    """Lines in groups: those of one row of a table.

    Args:
        path: for messages.
        text: the file, where bytes that are not text are half surrogates.
        offset: bytes before the text.
    """

    def __init__(self, path: Path, text: Iterator[str], offset: int) -> None:
        self.path = path
        self.group: list[str] = []
        """Lines read since `begin`."""
        self._text, self._offset, self._before = text, offset, 0
        self._again: deque[str] = deque()
        self._reread = 0

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._text)
        self.group.append(line)
        return line

    def begin(self) -> int:
        """Begin another group; the number of its first line, from 1."""
        self._before += len(self.group)
        self._offset += sum(map(_size, self.group))
        self.group.clear()
        return self._before + 1

    def keep(self, count: int) -> None:
        """Leave the first `count` lines to this group: the others are read again, unless that was done too often."""
        self._reread += sum(map(len, self.group[count:]))
        if self._reread < _REREAD_CHARS or not count:
            self._again.extendleft(reversed(self.group[count:]))
            del self.group[count:]

    def is_text(self, mistakes: Mistakes) -> bool:
        """Whether all lines of the group are text; those that are not are added to `mistakes`."""
        offset, well = self._offset, True
        for number, line in enumerate(self.group, self._before + 1):
            found = None if line.isascii() else _NOT_TEXT.search(line)
            if found is not None:
                at = offset + _size(line[: found.start()])
                mistakes.add_encoding(number, not_text(at, ord(found[0]) & 0xFF))
                well = False
            offset += _size(line)
        return well


def _size(line: str) -> int:
    return len(line) if line.isascii() else len(line.encode(errors="surrogateescape"))
