"""Score histograms on the curation page: each score by source, with the limits of `select`, and its extreme clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from curation.caption_choice import AGREEMENT, agreement
from curation.charts import Histogram, Limit, Names, Values, histogram
from curation.operator import Input, dataset
from curation.rules import Range, as_written, score_columns
from lumina.config import Config

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_MEANS = {
    "sharpness": "variance of the Laplacian of luma",
    "luma": "mean luma, 0 to 1",
    "black_clipped": "share of pixels that are black",
    "white_clipped": "share of pixels that are white",
    "saturation": "mean of the largest of R, G and B less the smallest, 0 to 1",
    "bar_rows": "share of the height under black bars",
    "bar_columns": "share of the width under black bars",
    "black_bars": "share of the picture under black bars",
    "duplicate_frames": "share of frames that show what the one before does",
    "combed_frames": "share of frames with combs of two fields",
    "camera_pan": "short sides per second",
    "camera_zoom": "logarithm of the scale per second, above 0 it grows",
    "camera_shake": "percent of the short side, root mean square",
    "camera_fit": "share of textured points that move as one",
    "aesthetic": "LAION's score, mean over frames",
    "aesthetic_min": "LAION's score, lowest of the frames",
    "caption_match": "cosine of caption and frames, mean",
    "caption_match_min": "cosine of caption and frames, lowest",
    "caption_match_new": "cosine of the model's caption and frames, mean",
    "caption_match_new_min": "cosine of the model's caption and frames, lowest",
    AGREEMENT: "how far the clip's own caption and the model's say the same, 0 to 1",
    "caption_tokens": "of the question and the answer",
    "nsfw": "probability, mean over frames",
    "nsfw_max": "probability, highest of the frames",
    "text_area": "share of the picture under text, mean over frames",
    "text_frames": "share of frames with text",
    "text_stable": "share of the picture under text that stays",
}
"""Units of scores; see `curation.score_columns`."""


class ScoreLimits(Config):
    """What `select` asks of one score."""

    every: Range | None = None
    """Of the clips of all sources."""
    sources: dict[str, Range | None] = Field(default_factory=dict)
    """Of a source's, in the place of `every`."""
    sets: dict[str, Range] = Field(default_factory=dict)
    """Further ones, of those that go to a latents set."""

    def of(self, source: str) -> list[tuple[str, Range]]:
        """The limits of a source's clips: the general ones have an empty name, the others their set's."""
        general = self.sources.get(source, self.every)
        found = [] if general is None else [("", general)]
        return [*found, *sorted(self.sets.items())]


@dataclass(frozen=True)
class Extreme:
    """Clips at one end of a score, as indices into the page's clips, each with its value and source."""

    heading: str
    note: str
    """How many clips share the value, where more do than are shown."""
    picks: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Score:
    """What the page shows of one score."""

    name: str
    chart: Histogram
    ends: tuple[Extreme, ...]


def is_scores(key: str) -> bool:
    """Whether the input of this name has numbers that the page shows."""
    return key in ("scores", "caption") or key.startswith("score@")


def read_scores(inputs: Mapping[str, Input], clip_ids: pa.ChunkedArray) -> pa.Table | None:
    """The numbers of the inputs `scores`, `score@...` and `caption`, a column each, in the order of `clip_ids`.

    Columns without any value are left out: nothing has measured them. None where there is no such input or number.
    ValueError if a table is of other clips.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for key in sorted(filter(is_scores, inputs)):
        rows = dataset(inputs[key].path / "data")
        names = [name for name in rows.schema.names if name in score_columns(rows.schema)]
        table = (_captioned if key == "caption" else _numbers)(rows, names).sort_by("clip_id")
        if not table["clip_id"].equals(clip_ids):
            raise ValueError(f"{key} has {len(table)} rows and select {len(clip_ids)}, or their clip ids differ")
        names = [name for name in table.column_names if name != "clip_id"]
        columns |= {name: as_written(table[name]) for name in names if table[name].null_count < len(table)}
    return pa.table(columns) if columns else None


def _numbers(rows: ds.Dataset, names: Sequence[str]) -> pa.Table:
    return rows.to_table(["clip_id", *names])


def _captioned(rows: ds.Dataset, names: Sequence[str]) -> pa.Table:
    """The numbers, and how far both captions of a clip agree: of their texts a batch is held."""
    agreed = []
    for batch in rows.to_batches(columns=["clip_id", *names, "caption", "caption_new"]):
        said = zip(batch["caption"].to_pylist(), batch["caption_new"].to_pylist(), strict=True)
        own = pa.array([agreement(old or "", new or "") for old, new in said], pa.float64())
        agreed.append(
            pa.table([batch["clip_id"], own, *(batch[name] for name in names)], ["clip_id", AGREEMENT, *names])
        )
    return pa.concat_tables(agreed) if agreed else _numbers(rows, names)


def describe_scores(
    scores: pa.Table,
    limits: Mapping[str, ScoreLimits],
    source: Names,
    kept: NDArray[np.bool_],
    colors: Mapping[str, int],
    most: int,
) -> list[Score]:
    """Every score that some clip has.

    Args:
        scores: see `read_scores`.
        limits: by name of the score.
        source: of each clip.
        kept: [clips].
        colors: sources that get a histogram, with their colours.
        most: clips that are shown at each end of a score.
    """
    masks = {name: source == name for name in colors}
    found = []
    for name in scores.column_names:
        values = scores[name].to_numpy().astype(np.float64)
        finite, asked = np.isfinite(values), limits.get(name, ScoreLimits())
        by_source = []
        for one, color in colors.items():
            mask = masks[one] & finite
            drawn, note = _drawn(values[mask], asked.of(one))
            by_source.append(Values(one, color, values[mask], kept[mask], drawn, note))
        chart = histogram(_MEANS.get(name, ""), "", by_source)
        if chart is not None:
            found.append(Score(name, chart, _ends(values, source, most)))
    return found


def _drawn(values: NDArray[np.float64], limits: list[tuple[str, Range]]) -> tuple[tuple[Limit, ...], str]:
    """Lines of the limits, and what is said of them: each with the share of the values [n] that it lets through."""
    drawn, notes = list[Limit](), list[str]()
    for place, one in limits:
        ends = [(end, bound) for end, bound in (("min", one.min), ("max", one.max)) if bound is not None]
        if not ends or not len(values):
            continue
        low, high = dict(ends).get("min", -np.inf), dict(ends).get("max", np.inf)
        within = (values >= low) & (values <= high)
        text = ", ".join(f"{end} {bound:.6g}" for end, bound in ends)
        text = f"set {place}: {text}" if place else text
        notes.append(f"{text}: {within.mean():.0%} within")
        drawn += [Limit(bound, f"{text}, by select", bool(place)) for _, bound in ends]
    return tuple(drawn), "; ".join(notes)


def _ends(values: NDArray[np.float64], source: Names, most: int) -> tuple[Extreme, ...]:
    """The clips with the lowest and those with the highest of all values; none where all are alike."""
    scored = np.flatnonzero(np.isfinite(values))
    own = values[scored]
    if not most or own.min() == own.max():
        return ()
    low = scored[np.argsort(own, kind="stable")[:most]]
    high = scored[np.argsort(-own, kind="stable")[:most]]
    ends = []
    for heading, picks in (("Lowest", low), ("Highest", high[~np.isin(high, low)])):
        tied = int((own == values[picks[0]]).sum()) if len(picks) else 0
        note = f"{tied:,} clips have {values[picks[0]]:.4g}" if tied > most else ""
        titles = (f"{values[index]:.4g} · {source[index]}" for index in picks)
        ends.append(Extreme(heading, note, tuple(zip(picks.tolist(), titles, strict=True))))
    return tuple(end for end in ends if end.picks)
