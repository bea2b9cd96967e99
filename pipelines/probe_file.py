"""What `lumina probe` tells: what the stage `probe` finds in one file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table

from curation.decode import ProbeConfig, probe
from curation.manifests import IMAGE_SUFFIXES
from curation.schema import RowError
from pipelines.errors import PipelineError


def probe_view(path: Path) -> RenderableType:
    """A table of what is known of a file after decoding it; PipelineError says why it would be quarantined."""
    if not path.is_file():
        raise PipelineError(f"{path}: no such file")
    media = "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"
    try:
        found = asdict(probe(path, media, ProbeConfig()))
    except RowError as error:
        raise PipelineError(f"{path}: {error.reason}: {error.detail}") from error
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in {"media": media, **found}.items():
        table.add_row(name, "unknown" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value))
    return table
