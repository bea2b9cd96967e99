"""What `lumina probe` tells: what the stage `probe` finds in one file."""

from __future__ import annotations

from dataclasses import asdict

from rich import box
from rich.console import RenderableType
from rich.table import Table

from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.media import localized
from curation.media_kinds import HEAD_BYTES, media_of
from curation.media_uris import absolute
from curation.object_stores import AS_TYPED
from curation.schema import RowError
from pipelines.errors import PipelineError


def probe_view(uri: str) -> RenderableType:
    """A table of what is known of a file after decoding it; PipelineError says why it would be quarantined."""
    decoder, found_at = Decoder(DecodeLimits()), uri
    try:
        found_at = absolute(uri, ".", AS_TYPED)
        # No media root is at stake: nothing but this file can be missing.
        with localized(found_at, "/", AS_TYPED, seen=False) as path:
            with path.open("rb") as file:
                media = media_of(file.read(HEAD_BYTES), uri)
            found = asdict(decoder.probe(path, media))
    except RowError as error:
        detail = error.detail.removeprefix(f"{found_at}: ").removeprefix(f"{uri}: ")
        raise PipelineError(f"{uri}: {error.reason}: {detail}") from error
    finally:
        decoder.close()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in {"media": media, **found}.items():
        table.add_row(name, "unknown" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value))
    return table
