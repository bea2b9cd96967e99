"""`lumina probe`: what the stage `probe` finds in one file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from pipelines.errors import PipelineError
from pipelines.terminal import make_console


def probe(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A video or an image: a path, or a URI as in a manifest.")
    ],
) -> None:
    """Show what a run would find in one file, or why it would quarantine it."""
    from curation.decode_limits import DecodeLimits
    from curation.decoder import Decoder
    from curation.media import localized
    from curation.media_kinds import HEAD_BYTES, media_of
    from curation.media_uris import absolute
    from curation.object_stores import AS_TYPED
    from curation.schema import RowError

    decoder, found_at = Decoder(DecodeLimits()), file
    try:
        found_at = absolute(file, ".", AS_TYPED)
        # No media root is at stake: nothing but this file can be missing.
        with localized(found_at, "/", AS_TYPED, seen=False) as path:
            with path.open("rb") as opened:
                media = media_of(opened.read(HEAD_BYTES), file)
            found = asdict(decoder.probe(path, media))
    except RowError as error:
        detail = error.detail.removeprefix(f"{found_at}: ").removeprefix(f"{file}: ")
        raise PipelineError(f"{file}: {error.reason}: {detail}") from error
    finally:
        decoder.close()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in {"media": media, **found}.items():
        table.add_row(name, "unknown" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value))
    make_console().print(table)
