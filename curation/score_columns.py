"""Columns of clip scores: what each scorer of the stage `scores` measures, with units and ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from curation.schema import STATUS_COLUMNS

SCORERS: Mapping[str, tuple[str, ...]] = {
    "quality": (
        "sharpness",
        "luma",
        "black_clipped",
        "white_clipped",
        "saturation",
        "bar_rows",
        "bar_columns",
        "black_bars",
        "duplicate_frames",
        "combed_frames",
    ),
    "camera": ("camera_pan", "camera_zoom", "camera_shake", "camera_fit"),
    "aesthetic": ("aesthetic", "aesthetic_min"),
    "caption_match": ("caption_match", "caption_match_min"),
    "nsfw": ("nsfw", "nsfw_max"),
    "text": ("text_area", "text_frames", "text_stable"),
}
"""Scorer -> its columns, all numbers.

`sharpness`: variance of the Laplacian of luma in 0..255, 0 or more. `luma`: its mean, in 0..1. `black_clipped`,
`white_clipped`: share of pixels with luma of at most 5, and of at least 250. `saturation`: mean of the largest of R, G
and B less the smallest, in 0..1. All these are of the picture without its black bars.

`bar_rows`, `bar_columns`, `black_bars`: share of the height, the width and the area that black bars take, in 0..1.
`duplicate_frames`: share of frames that show what the one before does. `combed_frames`: share of the sampled frames
with combs of interlacing where something moves.

`camera_pan`: short sides of the picture per second that the whole picture moves, from the first frame to the last.
`camera_zoom`: natural logarithm of the picture's scale, per second; above 0 it grows. `camera_shake`: root mean square
of what is faster than a second in the picture's path, in percent of its short side. `camera_fit`: share of the textured
points that move as one, in 0..1: of a low one the others tell little.

`aesthetic`: LAION's score, about 0 to 10, mean and lowest over the sampled frames. `caption_match`: cosine of caption
and frame, in -1..1, mean and lowest. `nsfw`: probability of the label that is named, mean and highest.

`text_area`: mean share of the picture under text. `text_frames`: share of the sampled frames with text. `text_stable`:
share of the picture that is under text in three quarters of them, as under a watermark. All in 0..1."""

OF_VIDEOS = frozenset({"duplicate_frames", "combed_frames", *SCORERS["camera"], "text_stable"})
"""Columns that an image has no value in."""

NO_SCORE = "frames_scored"
"""Sampled frames of a clip: every table of scorers has it, so no rule can name it."""

_LINES = {"text": [("text_lines", pa.list_(pa.string()))]}
"""Columns that are no numbers: what `text` read, without repeats, sorted."""


def columns_of(scorers: Iterable[str]) -> tuple[str, ...]:
    """The columns of some scorers that are numbers."""
    return tuple(name for scorer in scorers for name in SCORERS[scorer])


def schema_of(scorers: Sequence[str]) -> pa.Schema:
    """Of a table of some scorers; of those that are off it is null. `frames_scored` counts the sampled frames."""
    return pa.schema(
        [
            ("clip_id", pa.string()),
            *((name, pa.float32()) for name in columns_of(scorers)),
            *(column for scorer in scorers for column in _LINES.get(scorer, ())),
            (NO_SCORE, pa.int32()),
            *((name, pa.string()) for name in STATUS_COLUMNS),
        ]
    )


SCORES = schema_of(list(SCORERS))
"""Of the table of the stage `scores`."""
