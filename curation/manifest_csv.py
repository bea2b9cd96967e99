"""Comma-separated values as people's programs write them: other separators, empty rows, quotation marks left open."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from curation.manifest_lines import Lines
from curation.manifest_mistakes import Mistakes

_SEPARATORS = ",;\t|"
_FIELD_CHARS = 1 << 24
_SEP = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


@contextmanager
def long_fields() -> Iterator[None]:
    """Reads cells of 16 million characters: the module's own limit would refuse the captions of a long video."""
    limit = csv.field_size_limit(_FIELD_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def csv_rows(lines: Lines, is_known: Callable[[str], bool], mistakes: Mistakes) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold anything, each with the number of its first line; the header first.

    The separator is that which splits the header into most names that `is_known` knows, or what Excel's `sep=;` says.
    Rows whose quotation marks do not match are left out, and added to `mistakes`; ManifestError for such a header.
    """
    separator = _separator(lines, is_known)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    header = True
    while True:
        number = lines.begin()
        try:
            row = next(reader, None)
        except csv.Error as error:
            at, text = _fault(lines.group, separator) or (0, str(error))
            lines.keep(at + 1)
            mistakes.add(number + at, f"line {number + at}: {text}")
            row = []
        if not lines.is_text(mistakes):
            row = []
        if header:
            mistakes.check()  # without a header nothing can be said of the rest
        if row is None:
            return
        if any(cell.strip() for cell in row):
            header = False
            yield number, row


def _separator(lines: Lines, is_known: Callable[[str], bool]) -> str:
    """Look at the first line that holds anything; Excel's own is taken, another is left to be read."""
    for line in iter(lambda: next(lines, ""), ""):
        said = _SEP.fullmatch(line.strip("\r\n"))
        if said:
            return said[1]
        if line.strip(_SEPARATORS + '" \r\n'):
            break
        lines.begin()
    header = "".join(lines.group)
    lines.keep(0)

    def known(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        return sum(map(is_known, cells))

    return max(_SEPARATORS, key=known)


def _fault(group: list[str], separator: str) -> tuple[int, str] | None:
    """Which line of a row opens the quoted cell that breaks it, and how; None if no quotation mark does."""
    text, at = "".join(group), 0
    starts_unquoted = re.compile(rf" *(?!\"| )[^{re.escape(separator)}\r\n]*")
    while at < len(text):
        unquoted = starts_unquoted.match(text, at)
        if unquoted:
            at = unquoted.end() + 1
            continue
        opening = text.index('"', at)
        closing = _closing(text, opening)
        if closing is None or text[closing + 1 : closing + 2] not in ("", separator, "\r", "\n"):
            what = (
                'the quotation mark (") that begins a cell here is never closed'
                if closing is None
                else 'a quoted cell that begins here goes on after its closing quotation mark (")'
            )
            return _line(group, opening), f'{what}: inside a quoted cell write a quotation mark twice ("")'
        at = closing + 2
    return None


def _closing(text: str, opening: int) -> int | None:
    at = text.find('"', opening + 1)
    while at >= 0 and text[at + 1 : at + 2] == '"':
        at = text.find('"', at + 2)
    return at if at >= 0 else None


def _line(group: list[str], at: int) -> int:
    for number, line in enumerate(group):
        at -= len(line)
        if at < 0:
            return number
    raise AssertionError("the place lies in one of the lines")
