"""Index of what was encoded: Arrow columns in one memory-mapped file, so that no worker opens all Parquet files.

The stage that encodes writes it, last of all and once: it has the files at hand, and their index is wanted by every
worker of every training stage, again after every restart. All workers of a machine share its pages.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

INDEX_FILE = "index.arrow"
SPLITS = ("train", "heldout")

_THREADS = 8
"""Files whose footers are read at the same time, when an index is made."""
_BLOCK = 1 << 20

_NAME = pa.dictionary(pa.int32(), pa.string())
_PLACE = {"tensor": _NAME, "file": _NAME, "group": pa.int32(), "offset": pa.int32()}
"""Type and shape of a tensor, as in "bfloat16 16 9 32 32"; path of its file, its row group, and its row in there."""


@dataclass(frozen=True)
class Layout:
    """What is indexed, and of which columns."""

    schema: pa.Schema
    columns: tuple[str, ...]
    """Of the Parquet files; the shape and the type of the tensors come last, the tensors' bytes after them."""


CLIPS = Layout(
    pa.schema(
        {
            "clip_id": pa.large_string(),
            "media": _NAME,
            "source": _NAME,
            "bucket": _NAME,
            "split": _NAME,
            "text_key": pa.uint64(),
            "text_id_dropped": _NAME,
            "motion_score": pa.float32(),
        }
        | _PLACE
    ),
    (
        "clip_id",
        "status",
        "split",
        "media",
        "source",
        "bucket",
        "text_id",
        "text_id_dropped",
        "motion_score",
        "vae_latent_shape",
        "vae_latent_dtype",
        "vae_latent_bytes",
    ),
)
"""Clips whose status is ok and whose split is one of `SPLITS`, in order of (clip_id, bucket)."""
TEXTS = Layout(
    pa.schema({"text_key": pa.uint64(), "text_id": pa.large_string()} | _PLACE),
    ("text_id", "status", "text_feature_shape", "text_feature_dtype", "text_feature_bytes"),
)
"""Texts whose status is ok, in order of their keys."""
SOUNDS = Layout(
    pa.schema(
        {
            "clip_id": pa.large_string(),
            "source": _NAME,
            "bucket": _NAME,
            "split": _NAME,
            "sets": _NAME,
            "clip_key": pa.uint64(),
            "text_key": pa.uint64(),
        }
        | _PLACE
    ),
    (
        "clip_id",
        "status",
        "split",
        "source",
        "bucket",
        "text_id",
        "sets",
        "audio_latent_shape",
        "audio_latent_dtype",
        "audio_latent_bytes",
    ),
)
"""Sounds of clips whose status is ok and whose split is one of `SPLITS`, in order of (clip_id, bucket)."""
FEATURES = Layout(
    pa.schema({"clip_key": pa.uint64(), "clip_id": pa.large_string()} | _PLACE),
    ("clip_id", "status", "feature_shape", "feature_dtype", "feature_bytes"),
)
"""Features of clips whose status is ok, in order of the clips' keys."""
CAPTIONS = Layout(
    pa.schema({"text_key": pa.uint64(), "text_id": pa.large_string()} | _PLACE),
    ("text_id", "status", "feature_shape", "feature_dtype", "feature_bytes"),
)
"""Captions whose status is ok, in order of their keys."""


@dataclass(frozen=True)
class Place:
    """Where one tensor lies."""

    path: Path
    group: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


def text_key(text_id: str) -> int:
    """64 bits that stand for a text, or for a clip, in all indexes: the BLAKE2b digest of its id."""
    return int.from_bytes(hashlib.blake2b(text_id.encode(), digest_size=8).digest(), "little")


def tensor_shape(tensor: str) -> tuple[int, ...]:
    """The shape that the column `tensor` tells."""
    return tuple(map(int, tensor.split(" ")[1:]))


def write_index(out: Path, layout: Layout) -> None:
    """Write the index of the Parquet files in `out/data` to `out`; errors as `Index`."""
    batch = _scan(out, layout)
    with pa.OSFile(str(out / INDEX_FILE), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


class Index:
    """The rows of one or several directories, numbered one directory after the other; columns stay on the disk.

    A directory that was given no index file is indexed in memory.
    """

    def __init__(self, directories: Sequence[Path], layout: Layout) -> None:
        """Open the index of each directory.

        Raises ValueError if one has no Parquet files, a column is missing, a clip comes twice in one bucket, or an
        index file is damaged.
        """
        self._directories = directories
        self._batches = [_open(directory, layout) for directory in directories]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])
        self.left_out = sum(
            (Counter(json.loads(batch.schema.metadata[b"left_out"])) for batch in self._batches), Counter[str]()
        )
        """Why rows are not in the index, and how many."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def values(self, name: str) -> np.ndarray:
        """A column of numbers."""
        found = [batch[name].to_numpy(zero_copy_only=False) for batch in self._batches]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def codes(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """A column of names as numbers into all names, which are sorted."""
        columns = [batch[name] for batch in self._batches]
        each = [column.dictionary.to_pylist() for column in columns]
        if len(columns) == 1:
            return columns[0].indices.to_numpy(), tuple(each[0])
        names = sorted(set().union(*each))
        rank = {name: code for code, name in enumerate(names)}
        parts = [
            np.array([rank[name] for name in own], np.int32)[column.indices.to_numpy()]
            for column, own in zip(columns, each, strict=True)
        ]
        return np.concatenate(parts), tuple(names)

    def by_clip(self) -> np.ndarray:
        """Row numbers in order of (clip_id, bucket)."""
        if len(self._batches) == 1:
            return np.arange(len(self), dtype=_row_type(len(self)))
        return _by_clip(self._batches)

    def value(self, name: str, row: int) -> Any:
        """What a row has in a column."""
        part, at = self._at(row)
        return self._batches[part][name][at].as_py()

    def place(self, row: int) -> Place:
        """Where the tensor of a row lies."""
        part, at = self._at(row)
        tensor, file, group, offset = (self._batches[part][name][at].as_py() for name in _PLACE)
        return Place(self._directories[part] / file, group, offset, tensor_shape(tensor), tensor.split(" ")[0])

    def _at(self, row: int) -> tuple[int, int]:
        part = 0 if len(self._batches) == 1 else int(np.searchsorted(self._starts, row, side="right")) - 1
        return part, row - int(self._starts[part])


def _open(directory: Path, layout: Layout) -> pa.RecordBatch:
    path = directory / INDEX_FILE
    if not path.exists():
        return _scan(directory, layout)
    try:
        # What is mapped is read when it is looked at, and shared with the other workers of the machine.
        with pa.ipc.open_file(pa.memory_map(str(path))) as file:
            batch = file.get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}; encode again") from error
    if batch.schema != layout.schema:
        raise ValueError(f"{path} has the columns {', '.join(batch.schema.names)}: encode again")
    return batch


def _scan(directory: Path, layout: Layout) -> pa.RecordBatch:
    paths = sorted((directory / "data").rglob("*.parquet"))
    if not paths:
        raise ValueError(f"{directory / 'data'} holds no Parquet file: did the stage that writes it finish?")
    left_out = Counter[str]()
    tables = []
    with ThreadPoolExecutor(_THREADS) as executor:
        for table, counts in executor.map(partial(_of_file, directory, layout=layout), paths):
            tables.append(table)
            left_out += counts
    table = pa.concat_tables(tables).unify_dictionaries()
    del tables
    schema = layout.schema.with_metadata({"left_out": json.dumps(left_out)})
    key = schema.names[0]
    wanted = ("clip_id", "bucket") if _has_splits(layout) else (key,)
    columns = {name: _one_array(table[name]) for name in wanted}
    order = pa.array(_by_clip([columns]) if _has_splits(layout) else _by_key(columns[key], table, schema.names[1]))
    arrays = []
    for name in schema.names:
        # One column after the other: of ten million rows, both orders take gigabytes.
        column = columns.pop(name) if name in columns else _one_array(table[name])
        arrays.append(column.take(order))
        table = table.drop_columns([name])
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _of_file(directory: Path, path: Path, layout: Layout) -> tuple[pa.Table, Counter[str]]:
    """The rows of one file that are well, and how many are not, by why."""
    *columns, blob = layout.columns
    with pq.ParquetFile(path, memory_map=True) as file:
        missing = [name for name in layout.columns if name not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"{path}: column {', '.join(missing)} is missing: was it written by an encode stage?")
        kind = file.schema_arrow.field(blob).type
        if kind != pa.large_binary():
            raise ValueError(f"{path}: column {blob} is {kind}, not large_binary: encode again")
        # Small columns of many row groups: threads would cost more than they bring.
        table = file.read(columns=columns, use_threads=False)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    table = table.append_column("group", pa.array(groups))
    firsts = np.cumsum([0, *sizes])[groups]
    table = table.append_column("offset", pa.array((np.arange(len(table)) - firsts).astype(np.int32)))
    reasons = table["status"]
    if _has_splits(layout):
        reasons = pc.if_else(pc.equal(reasons, "ok"), table["split"], reasons)
    well = pc.is_in(reasons, pa.array(SPLITS if _has_splits(layout) else ("ok",)))
    counts = Counter(reasons.filter(pc.invert(well)).to_pylist())
    table = table.filter(well)
    shapes, dtypes = (table[name].to_pylist() for name in columns[-2:])
    found = {
        "tensor": pa.array(
            [" ".join(map(str, (dtype, *(shape or ())))) for dtype, shape in zip(dtypes, shapes, strict=True)]
        ),
        "file": pa.array([path.relative_to(directory).as_posix()] * len(table)),
    }
    for name in ("text", "clip"):
        if f"{name}_key" in layout.schema.names:
            found[f"{name}_key"] = pa.array(map(text_key, table[f"{name}_id"].to_pylist()), pa.uint64())
    if "sets" in columns:
        found["sets"] = pc.fill_null(table["sets"].combine_chunks(), "")
    arrays = [found[name] if name in found else table[name].combine_chunks() for name in layout.schema.names]
    return pa.table(
        [array.cast(field.type) for array, field in zip(arrays, layout.schema, strict=True)], schema=layout.schema
    ), counts


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; names of a dictionary in order."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        return array
    names = array.dictionary
    order = pc.sort_indices(names)
    ranks = np.empty(len(names), np.int32)
    ranks[order.to_numpy()] = np.arange(len(names))
    return pa.DictionaryArray.from_arrays(pa.array(ranks[array.indices.to_numpy()]), names.take(order))


def _has_splits(layout: Layout) -> bool:
    """Whether rows are in order of clip and bucket; of others, the first two columns are a key and what it is of."""
    return "split" in layout.schema.names


def _by_key(keys: pa.UInt64Array, table: pa.Table, ids: str) -> np.ndarray:
    values = keys.to_numpy()
    order = np.argsort(values, kind="stable")
    [twice] = np.nonzero(values[order[1:]] == values[order[:-1]])
    if len(twice):
        one, two = (table[ids][int(row)].as_py() for row in order[twice[0] : twice[0] + 2])
        raise ValueError(
            f"{ids.removesuffix('_id')} {one} comes twice" + (f", or has the key of {two}" if two != one else "")
        )
    return order


def _by_clip(batches: Sequence[Any]) -> np.ndarray:
    """Rows of all batches in order of (clip_id, bucket). ValueError if a clip comes twice in one bucket."""
    starts = np.cumsum([0, *(len(batch["clip_id"]) for batch in batches)])
    first_bytes = np.concatenate([_first_bytes(batch["clip_id"]) for batch in batches])
    # Of two that are in order already, this is a merge.
    order = np.argsort(first_bytes, kind="stable")
    ranked = first_bytes[order]
    alike = np.concatenate([[False], ranked[1:] == ranked[:-1], [False]])
    del first_bytes, ranked
    begins, ends = np.flatnonzero(~alike[:-1] & alike[1:]), np.flatnonzero(alike[:-1] & ~alike[1:]) + 1

    def name(row: int) -> tuple[str, str]:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        clip_id, bucket = (batches[part][column][row - int(starts[part])].as_py() for column in ("clip_id", "bucket"))
        return clip_id, bucket

    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        named = sorted((name(row), row) for row in order[begin:end].tolist())
        for (one, _), (two, _) in pairwise(named):
            if one == two:
                raise ValueError(f"clip {one[0]} comes twice in bucket {one[1]}: give each latents input once")
        order[begin:end] = [row for _, row in named]
    return order.astype(_row_type(len(order)))


def _first_bytes(ids: pa.LargeStringArray) -> np.ndarray:
    """The first eight bytes of each, as numbers that are ordered as they are; zeros behind shorter ones."""
    result = np.zeros(len(ids), np.uint64)
    for begin in range(0, len(ids), _BLOCK):
        _, offsets, data = ids.buffers()
        block = ids[begin : begin + _BLOCK]
        bounds = np.frombuffer(offsets, np.int64)[block.offset : block.offset + len(block) + 1]
        letters, lengths = np.frombuffer(data, np.uint8), np.diff(bounds)
        first = np.zeros((len(block), 8), np.uint8)
        for place in range(8):
            has = lengths > place
            first[has, place] = letters[bounds[:-1][has] + place]
        result[begin : begin + len(block)] = first.view(">u8").reshape(-1)
    return result


def _row_type(rows: int) -> type[np.signedinteger[Any]]:
    return np.int32 if rows <= np.iinfo(np.int32).max else np.int64
