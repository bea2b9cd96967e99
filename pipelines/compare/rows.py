"""Row comparison: two outputs of one stage, matched by key, of which one column is in memory at a time."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
Uris = Callable[[Sequence[str]], Mapping[str, str]]
"""Where the clips with these ids lie, as far as something tells."""


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


@dataclass(frozen=True)
class Rows:
    """The rows of an output."""

    stage: str
    output: Tables
    data: ds.Dataset

    @property
    def names(self) -> list[str]:
        """Of its columns."""
        return list(self.data.schema.names)

    def read(self, columns: Sequence[str] | None = None, where: Any = None) -> pa.Table:
        """Read them; large binary values are replaced by their SHA-256.

        Args:
            columns: None means all but those that `STANDS_FOR` makes needless.
            where: Arrow expression that the rows meet.

        Raises:
            StoreError: they cannot be read.
        """
        import pyarrow as pa

        names = list(columns or ()) or [name for name in self.names if STANDS_FOR.get(name) not in self.names]
        binary = [name for name in names if pa.types.is_large_binary(self.data.schema.field(name).type)]
        with _readable(self.stage, self.output):
            if not binary:
                return self.data.to_table(columns=names, filter=where)
            batches = self.data.to_batches(columns=names, filter=where, batch_size=1024)
            hashed = [_hashed(batch, binary) for batch in batches]
            return pa.Table.from_batches(hashed, schema=hashed[0].schema if hashed else self.data.schema)


def open_rows(stage: str, output: Tables) -> Rows:
    """Open the rows of an output. StoreError if there are none that can be read."""
    from curation.operator import dataset

    with _readable(stage, output):
        return Rows(stage, output, output.dataset() if isinstance(output, Output) else dataset(output / "data"))


@contextmanager
def _readable(stage: str, output: Tables) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise StoreError(f"stage {stage}: rows in {output}/data cannot be read: {error}") from error


@dataclass(frozen=True)
class RowMatch:
    """Rows of two outputs, side by side in the order of their keys."""

    tables: tuple[Rows, Rows]
    key: tuple[str, ...]
    """Columns that tell rows apart."""
    columns: tuple[str, ...]
    """Those of one type in both, but those that `STANDS_FOR` makes needless."""
    schema: tuple[str, ...]
    """Those that came, went, or have another type."""
    keys: pa.Array
    """Of the rows that both have, sorted."""
    only: tuple[pa.Array, pa.Array]
    """Keys of the rows that one alone has, sorted."""
    at: tuple[pa.Array, pa.Array]
    """Places of the common rows in each table."""

    def column(self, name: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """The values of the common rows in both; of large binary ones their SHA-256. StoreError as `Rows.read`."""
        a, b = (table.read([name])[name].take(at) for table, at in zip(self.tables, self.at, strict=True))
        return a, b


def match_rows(stage: str, a: Tables, b: Tables) -> RowMatch:
    """Match the rows of two outputs.

    Raises:
        StoreError: a table cannot be read, has no key that is known here, or a key twice.
    """
    import pyarrow.compute as pc

    tables = open_rows(stage, a), open_rows(stage, b)
    types = [{field.name: str(field.type) for field in table.data.schema} for table in tables]
    names = sorted({*types[0], *types[1]})
    alike = [name for name in names if types[0].get(name) == types[1].get(name)]
    key, keys = _row_keys(tables)
    orders = [pc.sort_indices(of) for of in keys]
    first, second = (of.take(order) for of, order in zip(keys, orders, strict=True))
    both = pc.is_in(first, value_set=second), pc.is_in(second, value_set=first)
    return RowMatch(
        tables,
        key,
        tuple(name for name in alike if STANDS_FOR.get(name) not in alike),
        tuple(name for name in names if name not in alike),
        first.filter(both[0]),
        (first.filter(pc.invert(both[0])), second.filter(pc.invert(both[1]))),
        (orders[0].filter(both[0]), orders[1].filter(both[1])),
    )


def compare_rows(stage: str, a: Tables, b: Tables, uris: Uris = lambda ids: {}) -> RowsDiff:
    """Compare the rows of two outputs.

    Args:
        stage: named in errors.
        a, b: the two outputs.
        uris: tells where clips lie, for tables that do not.

    Raises:
        StoreError: as `match_rows`.
    """
    import numpy as np
    import pyarrow as pa

    match = match_rows(stage, a, b)
    differs = {name: where_different(*match.column(name)) for name in match.columns}
    counts = {name: int(found.sum()) for name, found in differs.items() if found.any()}
    kinds = match.tables[0].data.schema
    fates = "status" in differs
    shown = [name for name in counts if (name in _FATE if fates else pa.types.is_floating(kinds.field(name).type))]
    where = np.flatnonzero(np.logical_or.reduce([differs[name] for name in shown])) if shown else np.array([], int)
    # A fate is read as a whole; of figures those that moved.
    told = [name for name in _STATUS if name in differs] if fates else shown
    values = {name: [of.take(pa.array(where)).to_pylist() for of in match.column(name)] for name in told if len(where)}
    keys = match.keys.take(pa.array(where)).to_pylist()
    only = [of.to_pylist() for of in match.only]
    named = _uris(match, uris, [keys, *only])
    changes = tuple(
        RowChange(
            key,
            named.get(key, ""),
            {name: (old[row], new[row]) for name, (old, new) in values.items() if fates or differs[name][where[row]]},
        )
        for row, key in enumerate(keys)
    )
    moves = Counter(" -> ".join(fate) for one in changes if fates and len(set(fate := _transition(one))) == 2)
    only_a, only_b = ({key: named.get(key, "") for key in of} for of in only)
    return RowsDiff(
        stage,
        (len(match.keys) + len(only_a), len(match.keys) + len(only_b)),
        only_a,
        only_b,
        dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        match.schema,
        int(np.logical_or.reduce(list(differs.values())).sum()) if differs else 0,
        changes,
        dict(sorted(moves.items(), key=lambda item: (-item[1], item[0]))),
    )


def _transition(change: RowChange) -> list[str]:
    status, reason = (change.columns.get(name, (None, None)) for name in ("status", "reason"))
    return [f"{one}/{why}" if why else str(one) for one, why in zip(status, reason, strict=True)]


def _uris(match: RowMatch, uris: Uris, keys: Sequence[Sequence[str]]) -> Mapping[str, str]:
    wanted = [key for of in keys for key in of] if match.key == ("clip_id",) else []
    own = [table for table in match.tables if "uri" in table.names]
    return {} if not wanted else read_uris(own, wanted) if own else uris(wanted)


def read_uris(tables: Iterable[Rows], ids: Sequence[str]) -> dict[str, str]:
    """Where the clips with these ids lie, as the first table that has one says. StoreError if one cannot be read."""
    import pyarrow.dataset as ds

    found: dict[str, str] = {}
    for table in tables:
        rows = table.read(["clip_id", "uri"], ds.field("clip_id").isin(ids))
        found = dict(zip(*(rows[name].to_pylist() for name in ("clip_id", "uri")), strict=True)) | found
    return found


def _hashed(batch: pa.RecordBatch, binary: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    for name in binary:
        hashes = [hashlib.sha256(one.as_buffer()).hexdigest() if one.is_valid else None for one in batch.column(name)]
        batch = batch.set_column(batch.schema.get_field_index(name), name, pa.array(hashes, pa.string()))
    return batch


def _row_keys(tables: Sequence[Rows]) -> tuple[tuple[str, ...], list[pa.Array]]:
    """The first of the known keys that tells the rows of each table apart, and its values, one text a row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    doubled = ""
    for columns in _KEYS:
        if not all(set(columns) <= set(table.names) for table in tables):
            continue
        parts = [[rows[name].cast(pa.string()) for name in columns] for rows in (of.read(columns) for of in tables)]
        keys = [pc.binary_join_element_wise(*texts, " ").combine_chunks() for texts in parts]
        counts = [(found := pc.value_counts(of)).filter(pc.greater(found.field("counts"), 1)) for of in keys]
        if not any(map(len, counts)):
            return columns, keys
        table, first = next((table, found[0]) for table, found in zip(tables, counts, strict=True) if len(found))
        doubled = f"; {table.output}/data has {first['counts']} rows of {', '.join(columns)} {first['values']}"
    known = "; ".join(", ".join(key) for key in _KEYS)
    where = " and ".join(f"{table.output}/data" for table in tables)
    raise StoreError(f"stage {tables[0].stage}: no key tells the rows of {where} apart; known keys: {known}{doubled}")


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
