"""Near-duplicates on the curation page: how many clusters there are in which sources, and clips of some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.operator import Input, dataset

_COMBINATIONS, _CLIPS = 12, 6


@dataclass(frozen=True)
class Alike:
    """Clips of one family, as indices into the page's clips, each with a title."""

    total: int
    sources: tuple[str, ...]
    picks: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Duplicates:
    """What the page says of near-duplicates."""

    clusters: int
    across: int
    """Clusters of clips of several sources."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, int], ...]
    """(sources, clusters, clips), the most clusters first."""
    hidden: int
    """Combinations of sources that `rows` leaves out."""
    groups: tuple[Alike, ...]
    """Families: those across sources first, then the largest."""


def read_duplicates(inputs: Mapping[str, Input]) -> pa.Table | None:
    """`clip_id`, `source`, `cluster` and `family` of the clips that have near-duplicates, by the input `duplicates`."""
    if "duplicates" not in inputs:
        return None
    rows = dataset(inputs["duplicates"].path / "data").to_table(["clip_id", "source", "cluster", "family"])
    counts = pc.value_counts(rows["family"])
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return rows.filter(pc.is_in(rows["family"], several)).sort_by("clip_id")


def describe(found: pa.Table, clip_ids: pa.ChunkedArray, most: int) -> Duplicates:
    """Count the clusters, and pick clips of `most` families.

    Args:
        found: see `read_duplicates`.
        clip_ids: of the page's clips, in their order.
        most: families that are shown.
    """
    clusters, families = dict[str, list[str]](), dict[str, list[dict[str, Any]]]()
    for row in found.to_pylist():
        clusters.setdefault(row["cluster"], []).append(row["source"])
        families.setdefault(row["family"], []).append(row)
    several = [sources for sources in clusters.values() if len(sources) > 1]
    counted, clips = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for sources in several:
        key = tuple(sorted(set(sources)))
        counted[key] += 1
        clips[key] += len(sources)
    ordered = sorted(counted, key=lambda key: (-counted[key], key))
    shown = sorted(families.items(), key=lambda item: (len(_sources(item[1])) == 1, -len(item[1]), item[0]))[:most]
    numbers = pc.index_in(found["clip_id"], clip_ids.combine_chunks()).to_numpy(zero_copy_only=False)
    place = dict(zip(found["clip_id"].to_pylist(), np.asarray(numbers).tolist(), strict=True))
    return Duplicates(
        len(several),
        sum(count for key, count in counted.items() if len(key) > 1),
        ("Sources", "clusters", "clips"),
        tuple((" + ".join(key), counted[key], clips[key]) for key in ordered[:_COMBINATIONS]),
        max(0, len(ordered) - _COMBINATIONS),
        tuple(
            Alike(len(rows), _sources(rows), tuple((place[row["clip_id"]], _title(row)) for row in rows[:_CLIPS]))
            for _, rows in shown
        ),
    )


def _sources(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(sorted({row["source"] for row in rows}))


def _title(row: dict[str, Any]) -> str:
    # The cluster with the lowest id gives the family its name.
    return row["source"] if row["cluster"] == row["family"] else f"{row['source']}, mirrored"
