"""HTML pages in one file: a Jinja template in a shell with the style all pages share, which asks for nothing.

A template extends `base.html.j2` (blocks `title`, `style`, `body`) and imports tables, charts and clips from
`macros.html.j2`. What is filled in is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina import formats
from lumina.pages.charts import COLORS

PARTS = ("base.html.j2", "macros.html.j2", "page.css", "play.js")
"""Files of the shell; they stand here since a page's identity is that of the files that its code names."""
MEDIA_BYTES = 6_000_000
"""Of clips on one page: text makes a third more of them, and a page shall stay below 10 MB."""
_SHELL = Path(__file__).parent
CHARTS = _SHELL / "charts.html.j2"
"""Template of a page with `heading`, `note` and `charts` alone."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    note: str = ""
    """Stands under it, beside it in a column of texts."""
    style: str = ""
    """Class of `page.css`: `differs` has a mark of its own, `c0` a swatch."""
    bar: float | None = None
    """Length of a bar in percent of the cell."""


@dataclass(frozen=True)
class Clip:
    """One clip of a row."""

    title: str
    media: str
    """A `data:` URI, or why there is none."""
    verdict: str = ""
    good: bool = True
    """Whether the verdict is."""


@dataclass(frozen=True)
class ClipRow:
    """Clips that stand beside each other and play in step."""

    prompt: str
    clips: Sequence[Clip]
    note: str = ""


def render(
    template: Path, clean: Callable[[str], str], plays: bool = False, script: Path | None = None, **values: Any
) -> str:
    """Fill a template.

    Args:
        template: file that extends `base.html.j2`.
        clean: what every text goes through that is filled in; HTML that a template has made is left.
        plays: whether it has rows of clips, which `play.js` keeps in step; no other script runs.
        script: file with the page's own script, in the place of that one.
        values: what it is filled with.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHELL]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "at": lambda percent: f"{percent:.2f}",
        "commas": lambda number: f"{number:,}",
        "counted": formats.counted,
        "duration": formats.duration,
        "figure": formats.figure,
    }
    file = script or (_SHELL / "play.js" if plays else None)
    code = "" if file is None else file.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    environment.globals |= {"interval": formats.interval, "colors": COLORS, "script": code, "script_digest": digest}
    return environment.get_template(template.name).render(**values)


def data_uri(file: Path, name: str) -> str:
    """A clip or picture as a `data:` URI, or a sentence that says why there is none of this name."""
    if not file.is_file():
        return f"{name} is gone"
    kind = mimetypes.guess_type(file.name)[0] or "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
