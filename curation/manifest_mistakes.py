"""Mistakes of a manifest: all are said at once, by line, in one error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SHOWN = 20


class ManifestError(ValueError):
    """The manifest cannot be used; nothing has been done yet."""


@dataclass
class Mistakes:
    """What is wrong with the rows of a manifest. The first are kept, the others counted: there may be millions."""

    path: Path
    _first: list[tuple[int, str]] = field(default_factory=list)
    _count: int = 0
    _encoding: str = ""
    _lines: list[int] = field(default_factory=list)
    _line_count: int = 0

    def add(self, number: int, text: str) -> None:
        """One of the line (or row) of this number; `text` begins with its name."""
        self._count += 1
        if len(self._first) < SHOWN:
            self._first.append((number, text))

    def add_encoding(self, number: int, text: str) -> None:
        """A line that is no text. All of them are one mistake: the file is saved once."""
        self._encoding = self._encoding or text
        self._line_count += 1
        if len(self._lines) < SHOWN:
            self._lines.append(number)

    def check(self) -> None:
        """ManifestError if there is any."""
        found, count = list(self._first), self._count
        if self._lines:
            first, *others = self._lines
            rest = self._line_count - len(self._lines)
            more = f" and {rest:,} more" if rest else ""
            also = (
                f" ({'line' if len(others) == 1 else 'lines'} {', '.join(map(str, others))}{more} too)"
                if others
                else ""
            )
            found.append((first, f"line {first}: {self._encoding}{also}"))
            count += 1
        if not found:
            return
        said = [text for _, text in sorted(found, key=lambda mistake: mistake[0])]
        if count == 1:
            raise ManifestError(f"manifest {self.path}, {said[0]}")
        rest = count - len(said)
        said += [f"and {rest:,} more"] if rest else []
        raise ManifestError("\n  ".join([f"manifest {self.path}: {count:,} mistakes to mend", *said]))
