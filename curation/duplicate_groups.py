"""Groups of duplicates by the sources of their clips: counted for the stage's report and for the curation page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pyarrow.dataset as ds


def rows_of_several(rows: ds.Dataset) -> pa.Table:
    """`clip_id`, `source`, `cluster`, `family`, `semantic` and `group`, `semantic` or else `family`, of the clips in
    groups of several, by their ids. Of the others nothing is kept in memory.

    Args:
        rows: of the `DUPLICATES` schema.
    """
    group = pc.coalesce(pc.field("semantic"), pc.field("family"))
    several = rows.to_table({"group": group}, filter=group != pc.field("clip_id"))["group"].unique()
    columns = {name: pc.field(name) for name in ("clip_id", "source", "cluster", "family", "semantic")}
    return rows.to_table(columns | {"group": group}, filter=pc.is_in(group, several)).sort_by("clip_id")


def grouped(found: pa.Table, name: str) -> pa.Table:
    """The groups by a column, under its name: `clips`, how many there are; `sources`, of each one; and `families`."""
    counted = found.group_by(name).aggregate([([], "count_all"), ("source", "distinct"), ("family", "count_distinct")])
    named = {"count_all": "clips", "source_distinct": "sources", "family_count_distinct": "families"}
    return counted.rename_columns([named.get(one, one) for one in counted.column_names])


def by_sources(groups: pa.Table) -> list[tuple[tuple[str, ...], int, int]]:
    """(sources, groups, clips) of `grouped`, the most groups first."""
    lists = groups["sources"].combine_chunks()
    names = pa.array(np.unique(lists.flatten().to_numpy(zero_copy_only=False)).astype(object), pa.string())
    codes = pc.index_in(lists.flatten(), names).to_numpy(zero_copy_only=False)
    parents = pc.list_parent_indices(lists).to_numpy()
    order = np.lexsort((codes, parents))
    codes, ends = codes[order], np.searchsorted(parents, np.arange(len(groups) + 1))
    sizes, counted, clips = groups["clips"].to_numpy(), dict[bytes, int](), dict[bytes, int]()
    for low, high, size in zip(ends[:-1].tolist(), ends[1:].tolist(), sizes.tolist(), strict=True):
        key = codes[low:high].tobytes()
        counted[key] = counted.get(key, 0) + 1
        clips[key] = clips.get(key, 0) + size
    named = {key: tuple(names.take(pa.array(np.frombuffer(key, codes.dtype))).to_pylist()) for key in counted}
    found = [(named[key], count, clips[key]) for key, count in counted.items()]
    return sorted(found, key=lambda one: (-one[1], one[0]))
