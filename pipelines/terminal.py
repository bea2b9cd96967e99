"""Terminal output: nothing that comes from outside is markup, a control sequence, or a second word of a command, and
nothing tells a password.

Every command prints through `make_console` and with the `Text` of this module; what is logged goes through
`log_to_terminal`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Self, TypeVar

import rich.text
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table

from curation.control_characters import CONTROL, shown, shown_in_json, shown_in_line
from pipelines.secrets import scrub

T = TypeVar("T")

_LOG_WIDTH = 120
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NEEDS_ESCAPE = re.compile(rf"[\\']|{CONTROL.pattern}")


def clean(text: str) -> str:
    """Text from anywhere without passwords and with its control characters shown."""
    return shown(scrub(text))


class Text(rich.text.Text):
    """Text from anywhere: rich's own would drop some control characters without a word, and print the others."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(clean(text), *args, **options)

    def append(self, text: rich.text.Text | str, style: Any = None) -> Self:
        """Add text at the end, in a style."""
        super().append(clean(text) if isinstance(text, str) else text, style)
        return self


class _Console(Console):
    """A plain string is text, whatever stands in it; styles are those of `Text`."""

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        return super().render_str(clean(text), **options | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and CONTROL.search(segment.text):
                yield Segment(shown(segment.text), segment.style)
            else:
                yield segment


def make_console(stderr: bool = False) -> Console:
    """A console that is wide enough for tables in a log; NO_COLOR is honoured by rich."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _LOG_WIDTH
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def make_table(*columns: str, title: str | None = None) -> Table:
    """A table without rows: a column stays on one line; `>` marks one of numbers, `~` one of texts that may break."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.lstrip(">~")
        if column.startswith("~"):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def record_table(title: str, records: Iterable[T], columns: Mapping[str, Callable[[T], RenderableType]]) -> Table:
    """A table with a row for each record; a column is its title, which may break, and its cell; `>` marks numbers."""
    table = make_table(title=title)
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    for record in records:
        table.add_row(*(cell(record) for cell in columns.values()))
    return table


def indented(what: RenderableType, blanks: int = 2) -> Padding:
    """What stands below something else, so much to the right."""
    return Padding(what, (0, 0, 0, blanks), expand=False)


class _ShownFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def log_to_terminal() -> None:
    """Warnings go to standard error, each as its message alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ShownFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def in_line(text: str, *args: Any, **options: Any) -> Text:
    """A name, a caption or a detail from outside, which does not begin another line."""
    return Text(shown_in_line(text), *args, **options)


def plain(log: str) -> str:
    """A log as text: without the colours that Ray gives it, without control characters, and without passwords."""
    return clean(_COLOURS.sub("", log))


def command_line(words: Iterable[str]) -> str:
    """Words as they are typed in a shell (bash, zsh); one with control characters as `$'...'`, so that all is seen."""
    return " ".join(_quoted(word) for word in words)


def json_text(content: Any, allow_nan: bool = True) -> str:
    """What `--json` prints; of a dataclass its fields and properties."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=allow_nan, default=_members)
    return shown_in_json(scrub(text))


def _members(record: Any) -> dict[str, Any]:
    derived = [name for name, member in vars(type(record)).items() if isinstance(member, property)]
    return {name: getattr(record, name) for name in (*(field.name for field in fields(record)), *derived)}


def _quoted(word: str) -> str:
    if not CONTROL.search(word):
        return shlex.quote(word)
    return "$'" + _NEEDS_ESCAPE.sub(lambda found: _escaped(found[0]), word) + "'"


def _escaped(character: str) -> str:
    return f"\\{character}" if character in "\\'" else shown_in_line(character)
