"""Deduplication: of each cluster of near-duplicates the one clip that is kept, and the copies that leave for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pyarrow.dataset as ds


def copies(decided: ds.Dataset, clusters: ds.Dataset) -> pa.Table | None:
    """`clip_id` of each clip that passes all rules though a better one of its cluster does, and that one, `best`.

    Better is the larger picture, then the longer clip, then the lower id. None: there are no copies.

    Args:
        decided: rows of the `SELECT` schema.
        clusters: of the `DUPLICATES` schema.
    """
    columns = ["clip_id", "width", "height", "duration_s"]
    kept = decided.to_table(columns=columns, filter=pc.field("keep")).combine_chunks()
    known = clusters.to_table(columns=["clip_id", "cluster"]).combine_chunks()
    cluster = known["cluster"].take(pc.index_in(kept["clip_id"], known["clip_id"].combine_chunks())).combine_chunks()
    counts = cluster.value_counts()
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    area = pc.multiply(pc.cast(kept["width"], pa.int64()), pc.cast(kept["height"], pa.int64()))
    kept = pa.table(
        {
            "clip_id": kept["clip_id"],
            "cluster": cluster,
            "area": area,
            "duration_s": pc.coalesce(kept["duration_s"], 0.0),
        }
    ).filter(pc.is_in(cluster, several))
    if not len(kept):
        return None
    order = [("cluster", "ascending"), ("area", "descending"), ("duration_s", "descending"), ("clip_id", "ascending")]
    kept = kept.sort_by(order).combine_chunks()
    # The first row of each cluster is its best.
    first = pc.index_in(kept["cluster"], pc.unique(kept["cluster"]))
    best = kept.group_by("cluster", use_threads=False).aggregate([("clip_id", "first")])
    kept = kept.append_column("best", best["clip_id_first"].take(first))
    return kept.filter(pc.not_equal(kept["clip_id"], kept["best"])).select(["clip_id", "best"])


def best_of(clip_ids: pa.ChunkedArray, found: pa.Table | None) -> dict[str, str]:
    """`clip_id` to the clip that is kept instead, of those of these ids that are copies."""
    if found is None:
        return {}
    own = found.filter(pc.is_in(found["clip_id"], pc.unique(clip_ids)))
    return dict(zip(own["clip_id"].to_pylist(), own["best"].to_pylist(), strict=True))
