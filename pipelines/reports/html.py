"""What the self-contained HTML pages share: filling a template, media and scripts inside the page, lines of charts."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.control_characters import shown
from pipelines.errors import PipelineError
from pipelines.secrets import scrub

MEDIA_BYTES = 6_000_000
"""Of clips on one page: text makes a third more of them, and a page shall stay below 10 MB."""
_POINTS = 400


def fill(template: Path, **values: Any) -> str:
    """Fill a Jinja template; it may include what lies beside it, and `page.css`, the style that all pages share."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def _clean(value: Any) -> Any:
    """What a template fills in; HTML that it has made itself is left."""
    return shown(scrub(value)) if type(value) is str else value


def write_page(path: Path, page: str, option: str) -> None:
    """Write a page; an older one is replaced.

    Raises:
        PipelineError: it cannot be written; `option` is what named it.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"{option} {path} cannot be written: {error.strerror or error}") from error


def data_uri(file: Path, name: str) -> str:
    """A clip or picture as a `data:` URI, or a sentence that says why there is none of this name."""
    if not file.is_file():
        return f"{name} is gone"
    kind = mimetypes.guess_type(file.name)[0] or "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def script_source(script: str) -> str:
    """What a content security policy says to let this inline script run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def thinned(series: Mapping[int, float]) -> list[tuple[int, float]]:
    """The finite points in order, of many some: the first and the last are always there."""
    steps = sorted(step for step, value in series.items() if abs(value) < float("inf"))
    every = -(-len(steps) // _POINTS)
    # The last point is where the curve ends, so it is always drawn.
    drawn = sorted({*steps[:: every or 1], *steps[-1:]})
    return [(step, series[step]) for step in drawn]
