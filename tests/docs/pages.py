"""What stands on the pages: code blocks, commands, inline code, tables and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMANDS = ("lumina ", "make ", "mlflow ", "hf ", "pip ", "ray ", "kubectl ", "docker ", "aws ", "python ")


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int
    """Of the fence, from 1."""
    language: str
    """Empty for what a command prints."""
    text: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command as a reader would type it."""

    where: str
    words: tuple[str, ...]
    inline: bool
    """Whether it stands in a sentence, where capitals take the place of names."""

    @property
    def text(self) -> str:
        """The words, quoted where they need it."""
        return shlex.join(self.words)


def blocks(language: str | None = None) -> list[Block]:
    """All code blocks, or those of one language."""
    found = [
        Block(page, page.read_text(encoding="utf-8")[: match.start()].count("\n") + 1, match[1], match[2])
        for page in PAGES
        for match in _FENCE.finditer(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> str:
    """A page without its code blocks; lines stay where they are."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))


def inline(page: Path) -> Iterator[tuple[str, str]]:
    """Where each piece of inline code stands, and what it is."""
    for number, line in enumerate(prose(page).split("\n"), start=1):
        for match in _INLINE.finditer(line):
            yield f"{page.name}:{number}", match[1]


def commands() -> list[Command]:
    """Every command, each text once: those of the `sh` blocks, and those in sentences."""
    found: dict[str, Command] = {}
    for block in blocks("sh"):
        for offset, line in enumerate(block.text.replace("\\\n", "  ").split("\n"), start=1):
            words = tuple(word for word in shlex.split(line, comments=True) if word)
            if words:
                words = (words[0].removeprefix(".venv/bin/"), *words[1:])
                command = Command(f"{block.page.name}:{block.line + offset}", words, inline=False)
                found.setdefault(command.text, command)
    for page in PAGES:
        for where, code in inline(page):
            if code.startswith(_COMMANDS):
                command = Command(where, tuple(shlex.split(code)), inline=True)
                found.setdefault(command.text, command)
    return list(found.values())


def table_rows(page: Path, heading: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of the rows of all tables whose first column has this heading."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif inside and not set(cells[0]) <= {"-"}:
            yield number, cells
        elif cells[0] == heading:
            inside = True
