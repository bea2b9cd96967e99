"""Rows of two outputs of one stage, matched by key: which are in one alone, and what changed in the others."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.engine.store.output import Output
from pipelines.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

_KEYS = (("clip_id",), ("text_id",), ("model", "prompt_id", "sample"), ("model", "source", "prompt_id", "sample"))
_FATE = ("status", "reason", "reason_stage")
_STATUS = (*_FATE, "detail")
STANDS_FOR = {"vae_latent_bytes": "latent_sha256"}
"""Large columns that need not be read where another column holds their hash."""

Tables = Path | Output
"""What has Parquet files in `data/`: a directory, or an output of a store."""


@dataclass(frozen=True)
class RowChange:
    """One row that both outputs have."""

    key: str
    uri: str
    """Where the clip lies; empty where the run does not tell."""
    columns: Mapping[str, tuple[Any, Any]]
    """All status columns, or those figures of a generated clip that differ, with the old and the new value."""


@dataclass(frozen=True)
class RowsDiff:
    """What two outputs of a stage hold."""

    stage: str
    rows: tuple[int, int]
    only_a: Mapping[str, str]
    """Rows that the other does not have: key, sorted, to URI; empty where nothing tells it."""
    only_b: Mapping[str, str]
    changed: Mapping[str, int]
    """Column -> rows of both in which it differs; the most frequent first."""
    schema: tuple[str, ...]
    """Columns that came, went, or have another type."""
    changed_rows: int
    changes: tuple[RowChange, ...]
    """Rows whose status, or whose figures, differ; sorted by key."""
    transitions: Mapping[str, int]
    """`ok -> filtered/too_short`: rows."""


def compare_rows(stage: str, a: Tables, b: Tables, uris: Mapping[str, str] | None = None) -> RowsDiff:
    """Match the rows of two outputs.

    Args:
        stage: named in errors.
        a, b: the two outputs.
        uris: clip_id to URI, for tables that do not have it.

    Raises:
        StoreError: a table cannot be read, has no key that is known here, or a key twice.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    left, right = read_rows(stage, a), read_rows(stage, b)
    keys = row_keys(stage, (left, right), (a, b))
    at = pc.index_in(keys[0], value_set=keys[1])
    both = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
    left_only = keys[0].filter(pc.is_null(at)).to_pylist()
    right_only = keys[1].filter(pc.invert(pc.is_in(keys[1], value_set=keys[0]))).to_pylist()
    names = keys[0].take(pa.array(both))
    # Only in sorted order do the two tables stand side by side, whatever files they lie in.
    both = both[np.argsort(np.array(names.to_pylist(), dtype=object), kind="stable")] if len(both) else both
    first = left.take(pa.array(both))
    second = right.take(at.take(pa.array(both)))
    types = {name: (_kind(left, name), _kind(right, name)) for name in {*left.column_names, *right.column_names}}
    common = sorted(name for name, (x, y) in types.items() if x == y)
    differs = {name: where_different(first[name], second[name]) for name in common}
    counts = {name: int(found.sum()) for name, found in differs.items() if found.any()}
    any_column = np.logical_or.reduce(list(differs.values())) if differs else np.zeros(len(both), bool)
    fates = [name for name in _FATE if name in counts]
    shown = fates if "status" in differs else _figures(first, counts)
    matched = keys[0].take(pa.array(both)).to_pylist()
    changes = _changes(first, second, matched, differs, shown, uris or {})
    return RowsDiff(
        stage,
        (len(left), len(right)),
        _named(left_only, left, uris or {}),
        _named(right_only, right, uris or {}),
        dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        tuple(sorted(name for name, (x, y) in types.items() if x != y)),
        int(any_column.sum()),
        changes,
        _transitions(first, second, differs),
    )


def _named(keys: Sequence[str], table: pa.Table, uris: Mapping[str, str]) -> dict[str, str]:
    if "uri" in table.column_names and "clip_id" in table.column_names:
        uris = dict(zip(table["clip_id"].to_pylist(), table["uri"].to_pylist(), strict=True))
    return {key: uris.get(key, "") for key in sorted(keys)}


def read_rows(stage: str, output: Tables) -> pa.Table:
    """All rows of an output; large binary values are replaced by their SHA-256.

    Raises:
        StoreError: they cannot be read.
    """
    import pyarrow as pa

    try:
        rows = _dataset(output)
        names = [name for name in rows.schema.names if STANDS_FOR.get(name) not in rows.schema.names]
        binary = [name for name in names if pa.types.is_large_binary(rows.schema.field(name).type)]
        if not binary:
            return rows.to_table(columns=names)
        batches = [_hashed(batch, binary) for batch in rows.to_batches(columns=names, batch_size=1024)]
        schema = batches[0].schema if batches else rows.schema
        return pa.Table.from_batches(batches, schema=schema)
    except (OSError, ValueError) as error:
        raise StoreError(f"stage {stage}: rows in {output}/data cannot be read: {error}") from error


def read_uris(stage: str, output: Tables) -> dict[str, str]:
    """clip_id to URI; empty if the output does not tell. StoreError if it cannot be read."""
    try:
        rows = _dataset(output)
        if not {"clip_id", "uri"} <= set(rows.schema.names):
            return {}
        table = rows.to_table(columns=["clip_id", "uri"])
    except (OSError, ValueError) as error:
        raise StoreError(f"stage {stage}: rows in {output}/data cannot be read: {error}") from error
    return dict(zip(table["clip_id"].to_pylist(), table["uri"].to_pylist(), strict=True))


def _dataset(output: Tables) -> ds.Dataset:
    if isinstance(output, Output):
        return output.dataset()
    from curation.operator import dataset

    return dataset(output / "data")


def _hashed(batch: pa.RecordBatch, binary: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    for name in binary:
        hashes = [_sha256(value) for value in batch.column(name)]
        batch = batch.set_column(batch.schema.get_field_index(name), name, pa.array(hashes, pa.string()))
    return batch


def _sha256(value: pa.Scalar) -> str | None:
    return hashlib.sha256(value.as_buffer()).hexdigest() if value.is_valid else None


def _kind(table: pa.Table, name: str) -> str:
    return str(table.schema.field(name).type) if name in table.column_names else ""


def row_keys(stage: str, tables: Sequence[pa.Table], outputs: Sequence[Tables]) -> list[pa.Array]:
    """The first of the known keys that tells the rows of each table apart, one text a row.

    Raises:
        StoreError: none of them does.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    doubled = ""
    for columns in _KEYS:
        if not all(set(columns) <= set(table.column_names) for table in tables):
            continue
        keys = [
            pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in columns), " ").combine_chunks()
            for table in tables
        ]
        counts = [pc.value_counts(of).filter(pc.greater(pc.value_counts(of).field("counts"), 1)) for of in keys]
        if not any(map(len, counts)):
            return keys
        output, first = next((output, found[0]) for output, found in zip(outputs, counts, strict=True) if len(found))
        doubled = f"; {output}/data has {first['counts']} rows of {', '.join(columns)} {first['values']}"
    known = "; ".join(", ".join(key) for key in _KEYS)
    where = " and ".join(f"{output}/data" for output in outputs)
    raise StoreError(f"stage {stage}: no key tells the rows of {where} apart; known keys: {known}{doubled}")


def where_different(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Any:
    """Where two columns of one type differ; nulls are equal, and so are NaNs."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(a.type):
        return np.zeros(len(a), bool)
    if pa.types.is_nested(a.type):
        # Arrow compares no lists. The text of one has all digits, and NaN in it is like NaN.
        pairs = zip(map(repr, a.to_pylist()), map(repr, b.to_pylist()), strict=True)
        return np.array([before != after for before, after in pairs], bool)
    same = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
    if pa.types.is_floating(a.type):
        same = pc.or_(same, pc.fill_null(pc.and_(pc.is_nan(a), pc.is_nan(b)), False))
    return ~same.to_numpy()


def _figures(table: pa.Table, changed: Mapping[str, int]) -> list[str]:
    import pyarrow as pa

    return [name for name in changed if pa.types.is_floating(table.schema.field(name).type)]


def _changes(
    first: pa.Table,
    second: pa.Table,
    keys: Sequence[str],
    differs: Mapping[str, Any],
    shown: Sequence[str],
    uris: Mapping[str, str],
) -> tuple[RowChange, ...]:
    import numpy as np
    import pyarrow as pa

    if not shown:
        return ()
    where = np.flatnonzero(np.logical_or.reduce([differs[name] for name in shown]))
    # A fate is read as a whole; of figures those that moved.
    told = [name for name in _STATUS if name in first.column_names] if shown[0] in _FATE else shown
    wanted = [*told, *(name for name in ("uri",) if name in first.column_names)]
    old, new = (table.select(wanted).take(pa.array(where)).to_pylist() for table in (first, second))
    return tuple(
        RowChange(
            keys[index],
            str(before.get("uri") or uris.get(keys[index], "")),
            {name: (before[name], after[name]) for name in told if told is not shown or differs[name][index]},
        )
        for index, before, after in zip(where.tolist(), old, new, strict=True)
    )


def _transitions(first: pa.Table, second: pa.Table, differs: Mapping[str, Any]) -> dict[str, int]:
    if not {"status", "reason"} <= differs.keys():
        return {}
    counts: dict[str, int] = {}
    for before, after in zip(_fates(first), _fates(second), strict=True):
        if before != after:
            counts[f"{before} -> {after}"] = counts.get(f"{before} -> {after}", 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _fates(table: pa.Table) -> Iterator[str]:
    for status, reason in zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True):
        yield f"{status}/{reason}" if reason else str(status)


def most_moved(found: RowsDiff, most: int) -> list[RowChange]:
    """The rows whose figures moved most, and in each the figures that did; a figure is measured by its range."""
    values: dict[str, list[float]] = {}
    for change in found.changes:
        for name, pair in change.columns.items():
            values.setdefault(name, []).extend(value for value in pair if _is_number(value))
    ranges = {name: max(of) - min(of) for name, of in values.items() if of}

    def move(name: str, pair: tuple[Any, Any]) -> float:
        # A figure that one clip has and the other lacks counts in full.
        if not all(map(_is_number, pair)):
            return 1.0
        return float(abs(pair[1] - pair[0]) / ranges[name]) if ranges[name] else 0.0

    moves = {change.key: {name: move(name, pair) for name, pair in change.columns.items()} for change in found.changes}
    ordered = sorted(found.changes, key=lambda change: (-sum(moves[change.key].values()), change.key))
    return [
        replace(
            change,
            columns=dict(sorted(change.columns.items(), key=lambda item: (-moves[change.key][item[0]], item[0]))),
        )
        for change in ordered[:most]
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isnan(value)
