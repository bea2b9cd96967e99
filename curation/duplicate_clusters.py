"""Clusters of near-duplicates: which clips show the same, by the hashes of their frames.

Rows in: hashed clips. Rows out: the same ids, each with the least id of its cluster. What selection makes of them is
its own rule.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.duplicate_groups import by_sources, grouped, rows_of_several
from curation.frame_hashes import HASHED, MIRROR, SIDE, TIMES
from curation.hash_lookup import HashFile, Longs, candidates
from curation.near_duplicates import MOST_DISTANCE, clusters, distances
from curation.operator import Env, Input, Operator, Report, dataset
from curation.schema import STATUS_COLUMNS, Status
from curation.semantic_config import SemanticConfig
from curation.semantic_duplicates import semantic_pairs
from lumina.config import Config
from lumina.faults import machine_errors

if TYPE_CHECKING:
    import pyarrow.dataset as ds

SUMMARY_FILE = "duplicates.json"
EMBEDDED = "embeddings"
"""Name of the input that has embeddings, where they are compared."""
_LISTED = 3

DUPLICATES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source", pa.string()),
        ("cluster", pa.string()),
        ("family", pa.string()),
        ("semantic", pa.string()),
        ("inside_bars", pa.float32()),
        *((name, pa.string()) for name in STATUS_COLUMNS),
    ]
)
"""`cluster` is the least id of the clips that show the same, its own where there is no other; `family` likewise, of
those that show the same or its mirror image; `semantic` of those that also mean the same, null where no embeddings are
compared. `inside_bars` is the share of the frame inside its black bars."""


class DuplicatesConfig(Config):
    """How near-duplicates are found. `select.near_duplicates` says what becomes of them."""

    semantic: SemanticConfig | None = None
    """Clips that mean the same, by embeddings, are duplicates too; None compares none."""

    def identity(self) -> DuplicatesConfig:
        """Without the place of the network, which is known by content, as what it makes is."""
        placeless = self.semantic and SemanticConfig(similarity=self.semantic.similarity)
        return self.model_copy(update={"semantic": placeless})


def _plan(inputs: Mapping[str, Input], _config: DuplicatesConfig, _env: Env) -> pa.Table:
    rows = inputs["frame_hashes"].rows(["clip_id", "source", "inside_bars", *STATUS_COLUMNS]).sort_by("clip_id")
    own = rows["clip_id"]
    rows = rows.append_column("cluster", own).append_column("family", own)
    if EMBEDDED not in inputs:
        return (
            rows.append_column("semantic", pa.nulls(len(rows), pa.string())).select(DUPLICATES.names).cast(DUPLICATES)
        )
    embedded = inputs[EMBEDDED].rows(["clip_id", *STATUS_COLUMNS]).sort_by("clip_id")
    if not embedded["clip_id"].equals(own):
        raise ValueError(f"the tables differ: {len(rows)} rows of frame_hashes, {len(embedded)} of {EMBEDDED}")
    is_hashed = pc.equal(rows["status"], Status.OK)
    for name in STATUS_COLUMNS:
        status = pc.if_else(is_hashed, embedded[name], rows[name])
        rows = rows.set_column(rows.column_names.index(name), name, status)
    return rows.append_column("semantic", own).select(DUPLICATES.names).cast(DUPLICATES)


def _survey(_rows: ds.Dataset, inputs: Mapping[str, Input], config: DuplicatesConfig) -> pa.Table | None:
    """`clip_id`, and the column of each kind of group, of the clips in groups of several."""
    names, number = _clips(dataset(inputs["frame_hashes"].path / "data"))
    groups = dict(zip(("cluster", "family"), _near(inputs, names, number), strict=True))
    if EMBEDDED in inputs and config.semantic is not None:
        alike = _semantic(dataset(inputs[EMBEDDED].path / "data"), names, config.semantic.similarity)
        same = np.arange(len(names)), groups["family"]
        groups["semantic"] = clusters(len(names), *(np.concatenate(ends) for ends in zip(alike, same, strict=True)))
    largest = list(groups.values())[-1]
    several = np.flatnonzero(np.bincount(largest, minlength=len(names))[largest] > 1)
    if not len(several):
        return None
    columns = {"clip_id": several} | {name: of_clip[several] for name, of_clip in groups.items()}
    return pa.table({name: names["clip_id"].take(pa.array(numbers)) for name, numbers in columns.items()})


def _is_ok() -> pc.Expression:
    # Not a constant: comparing imports pandas, and plans import this module.
    return pc.field("status") == Status.OK


def _clips(hashed: ds.Dataset) -> tuple[pa.Table, Longs]:
    """`clip_id` and `media` of the hashed clips by their ids, which number them; and the numbers of the rows."""
    names = hashed.to_table(columns=["clip_id", "media"], filter=_is_ok()).combine_chunks()
    order = pc.array_sort_indices(names["clip_id"].combine_chunks()).to_numpy()
    # Rows lie as workers wrote them.
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return names.take(pa.array(order)).combine_chunks(), number


def _near(inputs: Mapping[str, Input], names: pa.Table, number: Longs) -> tuple[Longs, Longs]:
    """Cluster and family of each clip, by the number of the first clip in it."""
    hashed = dataset(inputs["frame_hashes"].path / "data")
    hashes, at = HashFile(len(names)), 0
    for batch in hashed.to_batches(columns=["hashes"], filter=_is_ok()):
        content = b"".join(batch["hashes"].to_pylist())
        hashes.add(number[at : at + len(batch)], np.frombuffer(content, "<u8").reshape(-1, len(HASHED)))
        at += len(batch)
    pairs = candidates(hashes)
    del hashes
    # A still beside a film that shows it is no copy of it.
    is_video = _is_video(names)
    pairs = pairs[is_video[pairs.first] == is_video[pairs.second]]
    needed = np.unique(np.concatenate([pairs.first, pairs.second]))
    pictures, times = _thumbnails(hashed, number, needed)
    pairs = pairs[distances(pairs, times, lambda some: pictures[np.searchsorted(needed, some)]) <= MOST_DISTANCE]
    direct = pairs[pairs.kind != MIRROR]
    cluster, family = (clusters(len(names), one.first, one.second) for one in (direct, pairs))
    return cluster, family


def _is_video(names: pa.Table) -> NDArray[np.bool_]:
    is_video: NDArray[np.bool_] = pc.equal(names["media"], "video").to_numpy()
    return is_video


def _semantic(embedded: ds.Dataset, names: pa.Table, similarity: float) -> tuple[Longs, Longs]:
    """Pairs of clips by their numbers that connect those with like embeddings, films and stills apart."""
    width = sum(map(len, embedded.head(1, columns=["embedding"], filter=_is_ok())["embedding"].to_pylist()))
    own = embedded.to_table(columns=["clip_id"], filter=_is_ok())["clip_id"]
    numbers = pc.fill_null(pc.index_in(own, names["clip_id"].combine_chunks()), -1).to_numpy()
    there, is_video = np.sort(numbers[numbers >= 0]), _is_video(names)
    # Films and stills lie apart: each are a part of the file, of which nothing is copied.
    kinds = [there[is_video[there] == films] for films in (True, False)]
    place = np.full(len(names) + 1, -1)
    place[np.concatenate(kinds)] = np.arange(len(there))
    with machine_errors(f"{tempfile.gettempdir()} (TMPDIR): embeddings"), tempfile.TemporaryFile() as file:
        if not (width and len(there)):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        os.posix_fallocate(file.fileno(), 0, 2 * width * len(there))
        vectors = np.memmap(file, np.int16, "w+", shape=(len(there), width))
    at = 0
    for batch in embedded.to_batches(columns=["embedding"], filter=_is_ok()):
        places = place[numbers[at : at + len(batch)]]
        at += len(batch)
        vectors[places[places >= 0]] = batch["embedding"].flatten().to_numpy().reshape(-1, width)[places >= 0]
    films = len(kinds[0])
    parts = zip(kinds, (vectors[:films], vectors[films:]), strict=True)
    found = [[some[ends] for ends in semantic_pairs(part, similarity)] for some, part in parts]
    first, second = (np.concatenate(ends) for ends in zip(*found, strict=True))
    return first, second


def _thumbnails(hashed: ds.Dataset, number: Longs, needed: Longs) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Thumbnails of the clips `needed`, [n, 9, 16, 16, 3], which lie in a file; and how many each of them has."""
    shape, times, at = (len(needed), TIMES, SIDE, SIDE, 3), np.zeros(len(number), np.int8), 0
    if not len(needed):
        return np.empty(shape, np.uint8), times
    with tempfile.TemporaryFile() as file, machine_errors(f"{tempfile.gettempdir()} (TMPDIR): thumbnails"):
        # Of a file with holes, a page that finds the disk full ends the process without a word.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        pictures = np.memmap(file, np.uint8, "w+", shape=shape)  # keeps the file
    for batch in hashed.to_batches(columns=["thumbnails"], filter=_is_ok()):
        for clip, content in zip(number[at : at + len(batch)].tolist(), batch["thumbnails"], strict=True):
            place = int(np.searchsorted(needed, clip))
            if place < len(needed) and needed[place] == clip:
                frames = np.frombuffer(content.as_buffer(), np.uint8).reshape(-1, *shape[2:])
                pictures[place, : len(frames)], times[clip] = frames, len(frames)
        at += len(batch)
    return pictures, times


def _reduce(rows: pa.Table, _config: DuplicatesConfig, surveyed: pa.Table) -> pa.Table:
    places = pc.index_in(rows["clip_id"], surveyed["clip_id"].combine_chunks())
    for name in surveyed.column_names[1:]:
        found = pc.coalesce(surveyed[name].combine_chunks().take(places), rows["clip_id"])
        rows = rows.set_column(rows.column_names.index(name), name, found)
    return rows.select(DUPLICATES.names)


def _report(rows: ds.Dataset, config: DuplicatesConfig, out: Path) -> Report:
    """Counts of groups and of those across sources, as metrics, as lines, and in `duplicates.json`."""
    table = rows_of_several(rows)
    of_cluster = grouped(table, "cluster").filter(pc.field("clips") > 1)
    across = _across(of_cluster)
    of_family = table.group_by("family").aggregate([("cluster", "count_distinct")])
    found = {
        "clusters": len(of_cluster),
        "clips_in_clusters": pc.sum(of_cluster["clips"]).as_py() or 0,
        "clusters_across_sources": sum(across.values()),
        "mirrored": pc.sum(pc.greater(of_family["cluster_count_distinct"], 1)).as_py() or 0,
    }
    content: dict[str, Any] = {**found, "across": _listed(across)}
    warnings = _warnings("show", across)
    if config.semantic is not None:
        semantic = grouped(table, "group").filter(pc.field("families") > 1)
        across = _across(semantic)
        own = {
            "semantic_groups": len(semantic),
            "clips_in_semantic_groups": pc.sum(semantic["clips"]).as_py() or 0,
            "semantic_groups_across_sources": sum(across.values()),
        }
        found, content = found | own, content | own | {"semantic_across": _listed(across)}
        warnings += _warnings("mean", across)
    (out / SUMMARY_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Report({name: float(count) for name, count in found.items()}, (SUMMARY_FILE,), warnings)


def _across(groups: pa.Table) -> dict[tuple[str, ...], int]:
    return {sources: count for sources, count, _ in by_sources(groups) if len(sources) > 1}


def _listed(across: Mapping[tuple[str, ...], int]) -> list[dict[str, Any]]:
    return [{"sources": names, "clusters": count} for names, count in sorted(across.items())]


def _warnings(do: str, across: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    if not across:
        return ()
    largest = sorted(across.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{' and '.join(map(repr, names))} ({count})" for names, count in largest[:_LISTED]]
    more = len(largest) - _LISTED
    return (
        f"{sum(across.values())} clusters of clips that {do} the same span sources, which blurs the comparison of "
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
