"""Work batches: rows of a planned shard that are computed together, in which what is finished is counted.

A row of a batch of its own is a function of what it was planned from alone; a row of a larger batch, that of an
encoder, of what the whole batch was planned from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.digest import HASH_BYTES, row_digest_and_hashes
from curation.schema import STATUS_COLUMNS, Status

BATCH, INPUT_HASH = "__batch", "__input_hash"
_PASSING_ROWS = 1024
"""Rows that nothing is computed for go by many at a time."""


def cut_batches(rows: pa.Table, rows_per_batch: int, group: str | None) -> pa.Table:
    """Number the work batches: consecutive `ok` rows of one group, `rows_per_batch` at most; the others separately.

    Returns the rows sorted by batch, those of a group side by side, with the column `__batch` added.
    """
    is_other = pc.not_equal(rows["status"], Status.OK).to_numpy(zero_copy_only=False).astype(bool)
    groups = np.zeros(len(rows), np.int64)
    if group is not None and len(rows):
        encoded = rows[group].combine_chunks().dictionary_encode()
        names = [str(name) for name in encoded.dictionary.to_pylist()]
        ranks = np.empty(len(names) + 1, np.int64)
        ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        ranks[-1] = -1  # null
        groups = ranks[pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)]
    order = np.lexsort((groups, is_other))  # stable
    is_other, groups, at = is_other[order], groups[order], np.arange(len(rows))
    begins = np.ones(len(rows), bool)
    begins[1:] = (is_other[1:] != is_other[:-1]) | (groups[1:] != groups[:-1])
    place = at - np.maximum.accumulate(np.where(begins, at, 0))
    numbers = np.cumsum(place % np.where(is_other, _PASSING_ROWS, rows_per_batch) == 0) - 1
    return rows.take(pa.array(order)).append_column(BATCH, pa.array(numbers, pa.int64()))


def with_input_hashes(batches: pa.Table, passthrough: Sequence[str]) -> pa.Table:
    """The rows with a hash of all that each `ok` one is computed from: its columns, and those of its batch's others.

    Args:
        batches: see `cut_batches`.
        passthrough: columns from which nothing is computed.
    """
    well = pc.equal(batches["status"], Status.OK).to_numpy(zero_copy_only=False).astype(bool)
    ok = batches.slice(0, int(well.sum()))  # they come first
    _, hashes = row_digest_and_hashes(
        ok.drop_columns(sorted({*passthrough, *STATUS_COLUMNS, BATCH} & {*ok.column_names}))
    )
    starts = batch_starts(ok)
    if len(starts) <= len(ok):
        each = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
        for start, stop in pairwise(starts.tolist()):
            if stop - start > 1:
                together = b"".join(each[start:stop])
                each[start:stop] = [_combined(content, together) for content in each[start:stop]]
        hashes = b"".join(each)
    kind = pa.binary(HASH_BYTES)
    column = pa.FixedSizeBinaryArray.from_buffers(kind, len(ok), [None, pa.py_buffer(hashes)])
    return batches.append_column(INPUT_HASH, pa.chunked_array([column, pa.nulls(len(batches) - len(ok), kind)]))


def batch_starts(batches: pa.Table) -> np.ndarray:
    """Rows at which the batches of a table that is sorted by them begin, and its end."""
    numbers = batches[BATCH].to_numpy()
    return np.append(np.flatnonzero(np.diff(numbers, prepend=-1)), len(numbers))


def _combined(content: bytes, batch: bytes) -> bytes:
    return hashlib.blake2b(content + batch, digest_size=HASH_BYTES).digest()
