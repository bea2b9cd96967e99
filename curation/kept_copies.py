"""Deduplication: of each group of duplicates the one clip that is kept, and the copies that leave for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import Reason

if TYPE_CHECKING:
    import pyarrow.dataset as ds


def copies(decided: ds.Dataset, clusters: ds.Dataset) -> pa.Table | None:
    """Each clip that passes all rules though a better one of its group does: `clip_id`, `source`, `cluster`, and
    `first`, the best of that cluster; of the best of the group `best`, `best_cluster` and `best_source`. The better
    clips of a group come first. None: there are no copies.

    A group is a cluster of near-duplicates, or of semantic ones where these are known. Better is the larger picture
    inside its black bars, then the longer clip, then the lower id.

    Args:
        decided: rows of the `SELECT` schema.
        clusters: of the `DUPLICATES` schema.
    """
    columns = ["clip_id", "source", "width", "height", "duration_s"]
    kept = decided.to_table(columns=columns, filter=pc.field("keep")).combine_chunks()
    group = {"group": pc.coalesce(pc.field("semantic"), pc.field("cluster"))}
    known = clusters.to_table(columns={name: pc.field(name) for name in ("clip_id", "cluster", "inside_bars")} | group)
    known = known.take(pc.index_in(kept["clip_id"], known["clip_id"].combine_chunks())).combine_chunks()
    counts = known["group"].combine_chunks().value_counts()
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    area = pc.multiply(pc.cast(kept["width"], pa.float64()), pc.cast(kept["height"], pa.float64()))
    kept = pa.table(
        {
            "clip_id": kept["clip_id"],
            "source": kept["source"],
            "cluster": known["cluster"],
            "group": known["group"],
            "area": pc.multiply(area, pc.coalesce(pc.cast(known["inside_bars"], pa.float64()), 1.0)),
            "duration_s": pc.coalesce(kept["duration_s"], 0.0),
        }
    ).filter(pc.is_in(known["group"], several))
    if not len(kept):
        return None
    order = [("group", "ascending"), ("area", "descending"), ("duration_s", "descending"), ("clip_id", "ascending")]
    kept = kept.sort_by(order).combine_chunks()
    # The first row of each group is its best.
    first = pc.index_in(kept["group"], kept["group"].combine_chunks())
    of_cluster = pc.index_in(kept["cluster"], kept["cluster"].combine_chunks())
    kept = kept.append_column("first", kept["clip_id"].take(of_cluster))
    for name, column in (("best", "clip_id"), ("best_cluster", "cluster"), ("best_source", "source")):
        kept = kept.append_column(name, kept[column].take(first))
    kept = kept.filter(pc.not_equal(kept["clip_id"], kept["best"]))
    return kept.drop_columns(["group", "area", "duration_s"])


def with_stand_ins(
    found: pa.Table, is_taken: Callable[[str, str], bool], room: Mapping[str, int], most: int
) -> pa.Table:
    """`copies` where a quota takes the best of a group: the next whose source has room stands in, if there is one.

    A source that has room loses no clip to its quota, so nothing else changes.

    Args:
        found: see `copies`.
        is_taken: of the best, by its id and source.
        room: clips that each source may have besides those that it has; one that is not named may have `most`.
        most: clips of a source.
    """
    left, stand_in = dict(room), dict[str, str]()
    names = found.select(["best", "best_source", "clip_id", "source", "cluster"]).to_pylist()
    taken = {best for best, source in {(row["best"], row["best_source"]) for row in names} if is_taken(best, source)}
    clusters = dict[str, str]()
    for row in names:
        best, source = row["best"], row["source"]
        if best in taken and best not in stand_in and left.get(source, most) > 0:
            left[source] = left.get(source, most) - 1
            stand_in[best], clusters[best] = row["clip_id"], row["cluster"]
    changed = found
    for name, new in (("best", stand_in), ("best_cluster", clusters)):
        values = [
            new.get(best, old) for best, old in zip(found["best"].to_pylist(), found[name].to_pylist(), strict=True)
        ]
        changed = changed.set_column(changed.column_names.index(name), name, pa.array(values, pa.string()))
    return changed.filter(pc.not_equal(changed["clip_id"], changed["best"]))


def best_of(clip_ids: pa.ChunkedArray, found: pa.Table | None) -> dict[str, tuple[Reason, str]]:
    """`clip_id` to why it leaves and which better clip there is, of those of these ids that are copies: for what shows
    the same the one that is kept, or the best of its cluster where that leaves too; for what means the same the former.
    """
    if found is None:
        return {}
    own = found.filter(pc.is_in(found["clip_id"], pc.unique(clip_ids)))
    return {row["clip_id"]: _told(row) for row in own.to_pylist()}


def _told(row: Mapping[str, str]) -> tuple[Reason, str]:
    if row["cluster"] == row["best_cluster"]:
        return Reason.NEAR_DUPLICATE, row["best"]
    if row["clip_id"] != row["first"]:
        return Reason.NEAR_DUPLICATE, row["first"]
    return Reason.SEMANTIC_DUPLICATE, row["best"]
