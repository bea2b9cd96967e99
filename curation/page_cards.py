"""Card of a clip on the curation page: its pictures, captions, facts, and why it was set aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.schema import RowError, Status
from curation.thumbnails import Thumbnail, thumbnail_times, thumbnails

Row = dict[str, Any]
Decode = Callable[[Mapping[str, Any], Sequence[float]], NDArray[np.uint8]]
"""decode(row, times_s): the frames that a probed clip shows at these seconds from its start, uint8 [T, H, W, 3];
RowError if they cannot be had."""

_CAPTION_CHARS, _DETAIL_CHARS = 300, 400


@dataclass(frozen=True)
class Card:
    """What the page shows of one clip."""

    title: str
    """What it is an example of; may be empty."""
    uri: str
    caption: str
    """The one that trains."""
    others: tuple[tuple[str, str], ...]
    """What other captions the clip has: whose, and what they say."""
    facts: str
    detail: str
    """Why it was set aside; empty for a kept clip."""
    pictures: tuple[Thumbnail, ...]
    no_picture: str
    """Why there are no pictures; empty where there are."""


def take_pictures(
    rows: Mapping[int, Row], width: int, decode: Decode, progress: Callable[[int, int, str], None]
) -> dict[int, tuple[Thumbnail, ...] | RowError | str]:
    """Thumbnails of each row, `width` pixels wide at most; or what went wrong, or why it was not tried."""
    pictures: dict[int, tuple[Thumbnail, ...] | RowError | str] = {}
    for done, (index, row) in enumerate(rows.items(), start=1):
        if row["status"] == Status.QUARANTINED:
            pictures[index] = "Not decoded: something is wrong with it."
        elif row["width"] is None:
            pictures[index] = "Not decoded: it was set aside before it was probed."
        else:
            try:
                pictures[index] = thumbnails(decode(row, thumbnail_times(row)), width)
            except RowError as error:
                pictures[index] = error
        progress(done, len(rows), "clips")
    return pictures


def card(row: Row, title: str, pictures: tuple[Thumbnail, ...] | RowError | str, is_scored: bool) -> Card:
    """What is shown of a clip, with the motion score or the word that it has none where clips are scored."""
    facts = []
    if row["width"] is not None:
        facts.append(f"{row['width']}×{row['height']}")
    if row["media"] == "image":
        facts.append("image")
    elif row["fps"] is not None:
        facts += [f"{row['fps']:.4g} fps", f"{row['duration_s']:.3g} s"]
        if is_scored:
            facts.append("no motion score" if row["motion_score"] is None else f"motion {row['motion_score']:.3g} px")
    if row["codec"] is not None:
        facts.append(row["codec"])
    problem = f"{pictures.reason}: {pictures.detail}" if isinstance(pictures, RowError) else pictures
    return Card(
        title,
        row["uri"],
        _short(row["caption"] or "", _CAPTION_CHARS),
        tuple(
            (whose, _short(row[name], _CAPTION_CHARS))
            for whose, name in (("The clip's own", "caption_old"), ("The model's", "caption_new"))
            if row.get(name) and row[name] != row["caption"]
        ),
        # Lines break between facts, not inside them.
        " · ".join(fact.replace(" ", "\N{NO-BREAK SPACE}") for fact in facts),
        "" if row["status"] == Status.OK else _short(row["detail"] or "", _DETAIL_CHARS),
        pictures if isinstance(pictures, tuple) else (),
        _short(problem, _DETAIL_CHARS) if isinstance(problem, str) else "",
    )


def _short(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}… ({len(text)} characters)"
