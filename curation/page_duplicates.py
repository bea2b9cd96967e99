"""Duplicates on the curation page: how many groups there are in which sources, and clips of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicate_groups import by_sources, grouped, rows_of_several
from curation.operator import Input, dataset

_COMBINATIONS, _CLIPS = 12, 6


@dataclass(frozen=True)
class Alike:
    """Clips of one group, as indices into the page's clips, each with a title."""

    total: int
    sources: tuple[str, ...]
    picks: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Counts:
    """Groups of one kind by the sources of their clips."""

    groups: int
    across: int
    """Groups of clips of several sources."""
    rows: tuple[tuple[str, int, int], ...]
    """(sources, groups, clips), the most groups first."""
    hidden: int
    """Combinations of sources that `rows` leaves out."""


@dataclass(frozen=True)
class Duplicates:
    """What the page says of duplicates."""

    near: Counts
    semantic: Counts | None
    """Groups that are semantic duplicates and not merely near ones; None where no embeddings are compared."""
    groups: tuple[Alike, ...]
    """Families, with semantic duplicates where these are known: those across sources first, then the largest."""


def read_duplicates(inputs: Mapping[str, Input]) -> pa.Table | None:
    """See `curation.duplicate_groups.rows_of_several`; of the input `duplicates`."""
    return rows_of_several(dataset(inputs["duplicates"].path / "data")) if "duplicates" in inputs else None


def describe(found: pa.Table, clip_ids: pa.ChunkedArray, most: int) -> Duplicates:
    """Count the groups, and pick clips of `most` of them.

    Args:
        found: see `read_duplicates`.
        clip_ids: of the page's clips, in their order.
        most: groups that are shown.
    """
    is_semantic = found["semantic"].null_count == 0
    groups = grouped(found, "group").filter(pc.field("clips") > 1)
    groups = groups.append_column("one", pc.equal(pc.list_value_length(groups["sources"]), 1))
    shown = groups.sort_by([("one", "ascending"), ("clips", "descending"), ("group", "ascending")]).slice(0, most)
    return Duplicates(
        _counts(grouped(found, "cluster").filter(pc.field("clips") > 1)),
        _counts(groups.filter(pc.field("families") > 1)) if len(found) and is_semantic else None,
        tuple(
            Alike(row["clips"], tuple(sorted(row["sources"])), _picks(found, row["group"], clip_ids))
            for row in shown.to_pylist()
        ),
    )


def _counts(groups: pa.Table) -> Counts:
    ordered = by_sources(groups)
    return Counts(
        len(groups),
        sum(count for sources, count, _ in ordered if len(sources) > 1),
        tuple((" + ".join(sources), count, clips) for sources, count, clips in ordered[:_COMBINATIONS]),
        max(0, len(ordered) - _COMBINATIONS),
    )


def _picks(found: pa.Table, group: str, clip_ids: pa.ChunkedArray) -> tuple[tuple[int, str], ...]:
    rows = found.filter(pc.equal(found["group"], group)).slice(0, _CLIPS)
    places = pc.index_in(rows["clip_id"], clip_ids.combine_chunks()).to_pylist()
    return tuple((place, _title(row)) for place, row in zip(places, rows.to_pylist(), strict=True))


def _title(row: Mapping[str, str]) -> str:
    # The cluster with the lowest id gives the family its name, and the family with the lowest the group.
    if row["family"] != row["group"]:
        return f"{row['source']}, alike in meaning"
    return row["source"] if row["cluster"] == row["family"] else f"{row['source']}, mirrored"
