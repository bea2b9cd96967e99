"""Clusters of near-duplicates: which clips show the same, by the hashes of their frames.

Rows in: hashed clips. Rows out: the same ids, each with the least id of its cluster. What selection makes of them is
its own rule.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.frame_hashes import HASHED, MIRROR, SIDE, TIMES
from curation.hash_lookup import HashFile, Longs, candidates
from curation.near_duplicates import MOST_DISTANCE, clusters, distances
from curation.operator import Env, Input, Operator, Report, dataset
from curation.schema import STATUS_COLUMNS, Status
from lumina.config import Config
from lumina.faults import machine_errors

if TYPE_CHECKING:
    import pyarrow.dataset as ds

SUMMARY_FILE = "duplicates.json"
_LISTED = 3

DUPLICATES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source", pa.string()),
        ("cluster", pa.string()),
        ("family", pa.string()),
        *((name, pa.string()) for name in STATUS_COLUMNS),
    ]
)
"""`cluster` is the least id of the clips that show the same, its own where there is no other; `family` likewise, of
those that show the same or its mirror image."""


class DuplicatesConfig(Config):
    """How near-duplicates are found: there is nothing to choose. `select.near_duplicates` says what becomes of them."""


def _plan(inputs: Mapping[str, Input], _config: DuplicatesConfig, _env: Env) -> pa.Table:
    rows = inputs["frame_hashes"].rows(["clip_id", "source", *STATUS_COLUMNS]).sort_by("clip_id")
    rows = rows.append_column("cluster", rows["clip_id"]).append_column("family", rows["clip_id"])
    return rows.select(DUPLICATES.names).cast(DUPLICATES)


def _survey(_rows: ds.Dataset, inputs: Mapping[str, Input], _config: DuplicatesConfig) -> pa.Table | None:
    """`clip_id`, `cluster` and `family` of the clips in families of several."""
    hashed = dataset(inputs["frame_hashes"].path / "data")
    is_ok = pc.field("status") == Status.OK
    names = hashed.to_table(columns=["clip_id", "media"], filter=is_ok).combine_chunks()
    order = pc.array_sort_indices(names["clip_id"].combine_chunks()).to_numpy()
    # Rows lie as workers wrote them; clips are numbered by their ids.
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    names = names.take(pa.array(order))
    hashes, at = HashFile(len(order)), 0
    for batch in hashed.to_batches(columns=["hashes"], filter=is_ok):
        content = b"".join(batch["hashes"].to_pylist())
        hashes.add(number[at : at + len(batch)], np.frombuffer(content, "<u8").reshape(-1, len(HASHED)))
        at += len(batch)
    pairs = candidates(hashes)
    del hashes
    # A still beside a film that shows it is no copy of it.
    is_video = pc.equal(names["media"], "video").to_numpy()
    pairs = pairs[is_video[pairs.first] == is_video[pairs.second]]
    needed = np.unique(np.concatenate([pairs.first, pairs.second]))
    pictures, times = _thumbnails(hashed, number, needed)
    pairs = pairs[distances(pairs, times, lambda some: pictures[np.searchsorted(needed, some)]) <= MOST_DISTANCE]
    direct = pairs[pairs.kind != MIRROR]
    cluster, family = (clusters(len(names), one.first, one.second) for one in (direct, pairs))
    several = np.flatnonzero(np.bincount(family, minlength=len(names))[family] > 1)
    if not len(several):
        return None
    columns = {"clip_id": several, "cluster": cluster[several], "family": family[several]}
    return pa.table({name: names["clip_id"].take(pa.array(numbers)) for name, numbers in columns.items()})


def _thumbnails(hashed: ds.Dataset, number: Longs, needed: Longs) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Thumbnails of the clips `needed`, [n, 9, 16, 16, 3], which lie in a file; and how many each of them has."""
    shape, times, at = (len(needed), TIMES, SIDE, SIDE, 3), np.zeros(len(number), np.int8), 0
    if not len(needed):
        return np.empty(shape, np.uint8), times
    with tempfile.TemporaryFile() as file, machine_errors(f"{tempfile.gettempdir()} (TMPDIR): thumbnails"):
        # Of a file with holes, a page that finds the disk full ends the process without a word.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        pictures = np.memmap(file, np.uint8, "w+", shape=shape)  # keeps the file
    for batch in hashed.to_batches(columns=["thumbnails"], filter=pc.field("status") == Status.OK):
        for clip, content in zip(number[at : at + len(batch)].tolist(), batch["thumbnails"], strict=True):
            place = int(np.searchsorted(needed, clip))
            if place < len(needed) and needed[place] == clip:
                frames = np.frombuffer(content.as_buffer(), np.uint8).reshape(-1, *shape[2:])
                pictures[place, : len(frames)], times[clip] = frames, len(frames)
        at += len(batch)
    return pictures, times


def _reduce(rows: pa.Table, _config: DuplicatesConfig, surveyed: pa.Table) -> pa.Table:
    places = pc.index_in(rows["clip_id"], surveyed["clip_id"].combine_chunks())
    for name in ("cluster", "family"):
        found = pc.coalesce(surveyed[name].combine_chunks().take(places), rows["clip_id"])
        rows = rows.set_column(rows.column_names.index(name), name, found)
    return rows.select(DUPLICATES.names)


def _report(rows: ds.Dataset, _config: DuplicatesConfig, out: Path) -> Report:
    """Counts of clusters and of those across sources, as metrics, as a line, and in `duplicates.json`."""
    table = rows.to_table(columns=["source", "cluster", "family"])
    of_cluster = table.group_by("cluster").aggregate([("source", "count"), ("source", "distinct")])
    of_cluster = of_cluster.filter(pc.greater(of_cluster["source_count"], 1))
    sources = Counter(tuple(sorted(names)) for names in of_cluster["source_distinct"].to_pylist())
    across = {names: count for names, count in sorted(sources.items()) if len(names) > 1}
    of_family = table.group_by("family").aggregate([("cluster", "count_distinct")])
    found = {
        "clusters": len(of_cluster),
        "clips_in_clusters": pc.sum(of_cluster["source_count"]).as_py() or 0,
        "clusters_across_sources": sum(across.values()),
        "mirrored": pc.sum(pc.greater(of_family["cluster_count_distinct"], 1)).as_py() or 0,
    }
    content = {**found, "across": [{"sources": names, "clusters": count} for names, count in across.items()]}
    (out / SUMMARY_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Report({name: float(count) for name, count in found.items()}, (SUMMARY_FILE,), _warnings(across))


def _warnings(across: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    if not across:
        return ()
    largest = sorted(across.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{' and '.join(map(repr, names))} ({count})" for names, count in largest[:_LISTED]]
    more = len(largest) - _LISTED
    return (
        f"{sum(across.values())} clusters of clips that show the same span sources, which blurs the comparison of "
        f"their system prompts: {', '.join(listed)}{f' and {more} further combinations' if more > 0 else ''}",
    )


DUPLICATES_OPERATOR = Operator(
    name="duplicates",
    config=DuplicatesConfig,
    schema=DUPLICATES,
    inputs=("frame_hashes",),
    plan=_plan,
    survey=_survey,
    reduce=_reduce,
    report=_report,
)
"""Reads the input `frame_hashes`, the output of the stage of that name."""
