"""The curation page: one self-contained HTML file that shows a person whether the data are all right.

Rows in: what `probe`, `motion`, `tag` and `select` found of every clip. Out: the text of the page. It holds no clock
time and no path of this machine beyond the clips' own URIs, so the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from curation.charts import Histogram, Names, Ranking, Values, histogram, quantile_index, ranking
from curation.control_characters import shown
from curation.operator import Input, dataset
from curation.page_cards import Card, Decode, Row, card, take_pictures
from curation.page_duplicates import Alike, describe, read_duplicates
from curation.page_scores import Extreme, ScoreLimits, describe_scores, read_scores
from curation.schema import RowError, Status
from lumina.config import Config
from lumina.formats import size
from lumina.pages.charts import COLORS
from lumina.pages.page import Cell, render
from lumina.randomness import generator

if TYPE_CHECKING:
    import pyarrow.dataset as ds

TEMPLATE = Path(__file__).with_name("page.html.j2")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_PROBED = ("codec", "pix_fmt", "num_bytes")
_NAMES = ("source", "media", "status", "reason", "reason_stage", "split")
_NUMBERS = ("motion_score", "fps", "duration_s", "width", "height")


class CurationPageConfig(Config):
    """How much the page shows. Every clip with pictures adds some 15 kB; the defaults stay below 5 MB."""

    clips_per_source: int = Field(default=8, ge=0)
    """Kept clips on the contact sheet of each source."""
    clips_per_reason: int = Field(default=6, ge=0)
    """Clips on the contact sheet of each reason for which clips were set aside."""
    duplicate_groups: int = Field(default=6, ge=0)
    """Groups of near-duplicates that are shown, those across sources first, then the largest."""
    clips_per_score: int = Field(default=3, ge=0)
    """Clips with the lowest, and clips with the highest value of each score."""
    max_sources: int = Field(default=12, ge=1)
    """Sources with charts and contact sheets of their own, the largest first; the others are only counted."""
    thumbnail_width: int = Field(default=144, ge=16, le=640)
    """Side in pixels of the square that each picture fits in."""
    seed: int = 0
    """Seed by which clips are drawn for the contact sheets."""


class PageConfig(CurationPageConfig):
    """What a run's page shows."""

    limits: dict[str, ScoreLimits] = Field(default_factory=dict)
    """What `select` asks of each score, by the score's name."""


@dataclass(frozen=True)
class Tables:
    """What curation found."""

    clips: pa.Table
    """What is counted, sorted by clip_id: columns of `select`, `probe` and `caption_chars`, names as dictionaries."""
    select: ds.Dataset
    """The output of `select`, of which the rows of clips are read that the page shows."""
    motion_unit: str | None
    """What the motion scores measure; None where no clip has one."""
    system_prompts: Mapping[str, str]
    """Source to the text before its captions."""
    duplicates: pa.Table | None = None
    """See `curation.page_duplicates.read_duplicates`."""
    captions: ds.Dataset | None = None
    """The output of `caption`, where there is such a stage."""
    scores: pa.Table | None = None
    """See `curation.page_scores.read_scores`."""


@dataclass(frozen=True)
class Page:
    """A page and what it shows."""

    html: str
    clips: int
    """Rows that the page counts."""
    pictured: int
    """Clips with pictures."""
    undecodable: int
    """Clips whose pictures could not be made; the page says why."""


@dataclass(frozen=True)
class _Group:
    """Clips of one source or one reason that are shown together: indices into the clips, and a title for each."""

    name: str
    total: int
    picks: tuple[tuple[int, str], ...]


def read_tables(inputs: Mapping[str, Input], system_prompts: Mapping[str, str]) -> Tables:
    """Read the inputs `clips` (`probe`), `select` and, if given, `motion`, `duplicates`, `caption` and scores.

    ValueError if they are not of one run.
    """
    select, clips = (dataset(inputs[name].path / "data") for name in ("select", "clips"))
    scored = []
    if "motion" in inputs:
        motion = dataset(inputs["motion"].path / "data")
        scored = motion.scanner(filter=pc.is_valid(pc.field("estimator"))).head(1).to_pylist()
    # One configuration scored them all.
    tables = join_tables(select, clips, _unit(scored[0]) if scored else None, system_prompts)
    captions = dataset(inputs["caption"].path / "data") if "caption" in inputs else None
    scores = read_scores(inputs, tables.clips["clip_id"])
    return replace(tables, duplicates=read_duplicates(inputs), captions=captions, scores=scores)


def join_tables(
    select: ds.Dataset, probe: ds.Dataset, motion_unit: str | None, system_prompts: Mapping[str, str]
) -> Tables:
    """Read of `select` and `probe` what the page counts. ValueError if they are not of one run."""
    fields = {name: pc.field(name) for name in ("clip_id", *_NAMES, *_NUMBERS)}
    counted = select.to_table(columns=fields | {"caption_chars": pc.utf8_length(pc.field("caption"))})
    clips, probed = (one.sort_by("clip_id") for one in (counted, probe.to_table(columns=["clip_id", *_PROBED])))
    if not clips["clip_id"].equals(probed["clip_id"]):
        raise ValueError(
            f"select has {len(clips)} rows and probe {len(probed)}, or their clip ids differ: not one run's"
        )
    for name in _PROBED:
        clips = clips.append_column(name, probed[name])
    return Tables(clips, select, motion_unit, system_prompts)


def _unit(row: Row) -> str:
    height, width = row["input_hw"]
    interval = row["sample_times_s"][1] - row["sample_times_s"][0]
    return f"pixels per {interval:.3g} s in frames of {width}x{height}, by {row['estimator'].partition('/')[0]}"


def make_page(
    tables: Tables,
    config: PageConfig,
    decode: Decode,
    made_from: Mapping[str, str],
    progress: Callable[[int, int, str], None],
) -> Page:
    """Fill the template.

    Args:
        tables: what is shown.
        config: how much of it.
        decode: gives frames of clips; a clip for which it raises RowError shows the error instead.
        made_from: name to digest of the stages whose rows these are.
        progress: progress(done, total, unit), called for each clip that is decoded.
    """
    clips = tables.clips
    columns = _Columns(clips)
    named, colors = _largest(columns.source, config.max_sources)
    sheets = [_sheet(columns, source, config) for source in named]
    moving = [_motion_examples(columns, source) for source in named]
    reasons = [(key, _reason(columns, key, config)) for key in columns.reasons()]
    alike = None
    if tables.duplicates is not None:
        alike = describe(tables.duplicates, clips["clip_id"], config.duplicate_groups)
    scores = []
    if tables.scores is not None:
        scores = describe_scores(
            tables.scores, config.limits, columns.source, columns.kept, colors, config.clips_per_score
        )
    groups: list[_Group | Alike | Extreme] = [*sheets, *moving, *(group for _, group in reasons)]
    groups += alike.groups if alike else ()
    groups += (end for score in scores for end in score.ends)
    picked = sorted({index for group in groups for index, _ in group.picks})
    rows = _rows(tables, picked)
    pictures = take_pictures(rows, config.thumbnail_width, decode, progress)

    def cards(group: _Group | Alike | Extreme) -> list[Card]:
        is_scored = tables.motion_unit is not None
        return [card(rows[index], title, pictures[index], is_scored) for index, title in group.picks]

    def linked(end: Extreme) -> list[tuple[str, Card]]:
        return [
            (f"clip-{rows[index]['clip_id']}", card) for (index, _), card in zip(end.picks, cards(end), strict=True)
        ]

    extremes = {anchor: card for score in scores for end in score.ends for anchor, card in linked(end)}
    html = render(
        TEMPLATE,
        shown,
        colors_of=colors,
        facts=_facts(clips, columns),
        counts=_counts(columns, colors, len(columns.source.names) - len(named)),
        hidden=len(columns.source.names) - len(named),
        seed=config.seed,
        sheets=[(group, tables.system_prompts.get(group.name, ""), cards(group)) for group in sheets],
        motion=_motion_chart(columns, colors, tables.motion_unit),
        moving=[(group, cards(group)) for group in moving if group.picks],
        histograms=_histograms(columns, colors),
        rankings=_rankings(clips, columns, colors),
        reasons=[(key, group, cards(group)) for key, group in reasons],
        alike=alike,
        alike_cards=[(group, cards(group)) for group in (alike.groups if alike else ())],
        scores=[(score, [(end, linked(end)) for end in score.ends]) for score in scores],
        extremes={anchor: replace(card, title="") for anchor, card in sorted(extremes.items())},
        per_end=config.clips_per_score,
        made_from=made_from,
    )
    undecodable = sum(isinstance(found, RowError) for found in pictures.values())
    pictured = sum(isinstance(found, tuple) for found in pictures.values())
    return Page(html, len(clips), pictured, undecodable)


def _rows(tables: Tables, picked: Sequence[int]) -> dict[int, Row]:
    """All that is known of single clips, by their places among the clips that are counted."""
    counted = tables.clips.take(pa.array(picked, pa.int64())).to_pylist()
    wanted = pc.field("clip_id").isin(pa.array([row["clip_id"] for row in counted], pa.string()))
    whole = {row["clip_id"]: row for row in tables.select.to_table(filter=wanted).to_pylist()}
    told: dict[str, Row] = {}
    if tables.captions is not None:
        columns = {"clip_id": "clip_id", "caption_old": "caption", "caption_new": "caption_new"}
        named = {name: pc.field(column) for name, column in columns.items()}
        told = {row["clip_id"]: row for row in tables.captions.to_table(columns=named, filter=wanted).to_pylist()}
    return {
        index: row | whole[row["clip_id"]] | told.get(row["clip_id"], {})
        for index, row in zip(picked, counted, strict=True)
    }


class _Columns:
    """The columns that are counted, as arrays with one entry a clip."""

    def __init__(self, clips: pa.Table) -> None:
        self.source, self.media, self.status, self.reason, self.stage = (Names(clips[name]) for name in _NAMES[:5])
        self.kept: NDArray[np.bool_] = self.status == Status.OK
        self.video: NDArray[np.bool_] = self.media == "video"
        self.motion, self.fps, self.duration = (
            clips[name].to_numpy().astype(np.float64) for name in ("motion_score", "fps", "duration_s")
        )
        self.caption_chars = clips["caption_chars"].to_numpy().astype(np.float64)

    def reasons(self) -> list[tuple[str, str, str]]:
        """(status, reason, stage) of what was set aside: filtered before quarantined, the most frequent first."""
        codes = np.stack([self.status.codes, self.reason.codes, self.stage.codes], axis=1)[~self.kept]
        found, counts = np.unique(codes, axis=0, return_counts=True)
        keys = [(self.status.names[a], self.reason.names[b], self.stage.names[c]) for a, b, c in found.tolist()]
        number = dict(zip(keys, counts.tolist(), strict=True))
        return sorted(keys, key=lambda key: (key[0], -number[key], key))

    def has(self, key: tuple[str, str, str]) -> NDArray[np.bool_]:
        """Where the clips lie that were set aside for this."""
        found: NDArray[np.bool_] = (self.status == key[0]) & (self.reason == key[1]) & (self.stage == key[2])
        return found


def _largest(sources: Names, most: int) -> tuple[list[str], dict[str, int]]:
    """The `most` largest sources, sorted by name, and the colour of each."""
    counts = np.bincount(sources.codes, minlength=len(sources.names)).tolist()
    largest = sorted(zip(sources.names, counts, strict=True), key=lambda item: (-item[1], item[0]))
    named = sorted(name for name, _ in largest[:most])
    return named, {name: min(place, COLORS) for place, name in enumerate(named)}


def _draw(indices: NDArray[np.int64], most: int, config: CurationPageConfig, *address: str) -> tuple[int, ...]:
    if len(indices) <= most:
        return tuple(indices.tolist())
    chosen = generator(config.seed, "curation page", *address).choice(len(indices), most, replace=False)
    return tuple(indices[np.sort(chosen)].tolist())


def _sheet(columns: _Columns, source: str, config: CurationPageConfig) -> _Group:
    kept = np.flatnonzero(columns.kept & (columns.source == source))
    picks = _draw(kept, config.clips_per_source, config, "source", source)
    return _Group(source, len(kept), tuple((index, "") for index in picks))


def _reason(columns: _Columns, key: tuple[str, str, str], config: CurationPageConfig) -> _Group:
    found = np.flatnonzero(columns.has(key))
    picks = _draw(found, config.clips_per_reason, config, "reason", *key)
    return _Group(key[1], len(found), tuple((index, columns.source[index]) for index in picks))


def _motion_examples(columns: _Columns, source: str) -> _Group:
    """The clips whose motion is nearest to each quantile of the source's."""
    scored = np.flatnonzero(np.isfinite(columns.motion) & (columns.source == source))
    if not len(scored):
        return _Group(source, 0, ())
    ordered = scored[np.argsort(columns.motion[scored], kind="stable")]
    at: dict[int, list[str]] = {}
    for q in QUANTILES:
        at.setdefault(int(ordered[quantile_index(len(ordered), q)]), []).append(f"{q:.0%}")
    picks = ((index, f"{', '.join(names)}: {columns.motion[index]:.3g} px") for index, names in at.items())
    return _Group(source, len(scored), tuple(picks))


def _facts(clips: pa.Table, columns: _Columns) -> dict[str, Any]:
    kept_videos = columns.kept & columns.video
    return {
        "in": len(clips),
        "kept": int(columns.kept.sum()),
        "filtered": int((columns.status == Status.FILTERED).sum()),
        "quarantined": int((columns.status == Status.QUARANTINED).sum()),
        "sources": len(columns.source.names),
        "videos": int(columns.video.sum()),
        "images": int((~columns.video).sum()),
        "heldout": int((columns.kept & (Names(clips["split"]) == "heldout")).sum()),
        "kept_s": float(np.nansum(columns.duration[kept_videos])),
        "bytes": size(pc.sum(clips["num_bytes"]).as_py() or 0),
    }


def _counts(columns: _Columns, colors: Mapping[str, int], hidden: int) -> dict[str, Any]:
    """Clips by what became of them (rows) and by source (columns, the sources not shown summed up): parts add up."""
    every = np.ones(len(columns.kept), bool)
    groups = [every, *(columns.source == source for source in colors)]
    if hidden:
        groups.append(~np.any(groups[1:], axis=0))

    def row(head: str | Cell, mask: NDArray[np.bool_]) -> list[str | Cell | int]:
        return [head, *(int((mask & group).sum()) or Cell("0", style="zero") for group in groups)]

    rows = [
        row(f"kept {media}s", columns.kept & mask)
        for media, mask in (("video", columns.video), ("image", ~columns.video))
        if (columns.kept & mask).any()
    ] or [row("kept", columns.kept)]
    rows += [
        row(Cell(f"{status}: {reason}", f"by {stage}"), columns.has((status, reason, stage)))
        for status, reason, stage in columns.reasons()
    ]
    shares = [f"{(columns.kept & group).sum() / group.sum():.0%}" if group.any() else "" for group in groups]
    heads = [Cell(source, style=f"c{color}") for source, color in colors.items()]
    return {
        "columns": ["Clips", "all", *heads, *([f"{hidden} others"] if hidden else [])],
        "rows": [*rows, row("in", every), ["share kept", *shares]],
    }


def _values(
    columns: _Columns, values: NDArray[np.float64], mask: NDArray[np.bool_], colors: Mapping[str, int]
) -> list[Values]:
    found = []
    for source, color in colors.items():
        of_source = mask & np.isfinite(values) & (columns.source == source)
        found.append(Values(source, color, values[of_source], columns.kept[of_source]))
    return found


def _motion_chart(columns: _Columns, colors: Mapping[str, int], unit: str | None) -> Histogram | None:
    label = f"mean |flow component|, {unit}"
    every = np.ones(len(columns.kept), bool)
    return histogram(label, "px", _values(columns, columns.motion, every, colors), QUANTILES)


def _histograms(columns: _Columns, colors: Mapping[str, int]) -> list[tuple[str, Histogram]]:
    every = np.ones(len(columns.kept), bool)
    charts = {
        "Duration": histogram("seconds", "s", _values(columns, columns.duration, columns.video, colors)),
        "Frame rate": histogram("frames per second", "fps", _values(columns, columns.fps, columns.video, colors)),
        "Caption length": histogram("characters", "characters", _values(columns, columns.caption_chars, every, colors)),
    }
    return [(title, chart) for title, chart in charts.items() if chart is not None]


def _rankings(clips: pa.Table, columns: _Columns, colors: Mapping[str, int]) -> list[tuple[str, Ranking]]:
    size = pc.binary_join_element_wise(*(pc.cast(clips[name], pa.string()) for name in ("width", "height")), "×")
    format_ = pc.binary_join_element_wise(clips["codec"], clips["pix_fmt"], " ")
    charts = {}
    for title, what, values in (("Size", "sizes", size), ("Codec", "codecs", format_)):
        names = Names(values)
        counted = {
            source: dict(zip(names.names, np.bincount(codes, minlength=len(names.names)).tolist(), strict=True))
            for source in colors
            for codes in [names.codes[(columns.source == source) & (names.codes >= 0)]]
        }
        charts[title] = ranking(what, counted, colors)
    return [(title, chart) for title, chart in charts.items() if chart is not None]
