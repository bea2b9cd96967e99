"""A digest of a table's rows that depends on nothing but the rows: `rows256-add/1`.

row    = SHA-256("lumina-row/1" | for each column in sorted order: length | name | type tag | value)
value  = 0x00 for null, else 0x01 | length | bytes
digest = "rows256-add/1:<n>:<sum of all rows mod 2^256, hex>"

The sum is commutative, so the order of rows, blocks and files does not matter, nor do chunking, compression, dictionary
encoding or the 64-bit variants of an Arrow type. It finds accidents, not adversaries. Integers and floats are
little-endian with the width of their type, strings are UTF-8, every NaN is the one quiet NaN, and -0.0 stays -0.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEME = "rows256-add/1"
HASH_BYTES = 8
_MODULUS, _LAST_BYTES = 1 << 256, (1 << 64) - 1
_NULL = b"\0"


@dataclass(frozen=True)
class RowsDigest:
    """Number of rows and the sum of their hashes. Digests of disjoint parts add up to the digest of the whole."""

    rows: int = 0
    total: int = 0

    def __add__(self, other: RowsDigest) -> RowsDigest:
        return RowsDigest(self.rows + other.rows, (self.total + other.total) % _MODULUS)

    def __str__(self) -> str:
        return f"{SCHEME}:{self.rows}:{self.total:064x}"

    @staticmethod
    def parse(text: str) -> RowsDigest:
        """Read a digest back from its text; ValueError if the text is not one."""
        scheme, _, rest = text.partition(":")
        rows, _, total = rest.partition(":")
        if scheme != SCHEME or not rows.isdecimal() or len(total) != 64:
            raise ValueError(f"not a {SCHEME} digest: {text!r}")
        return RowsDigest(int(rows), int(total, 16))


def row_digest(table: pa.Table) -> RowsDigest:
    """Digest of all rows over all columns of `table`. TypeError for a column type the scheme does not define."""
    return RowsDigest(len(table), sum(_row_hashes(table)) % _MODULUS)


def row_digest_and_hashes(table: pa.Table) -> tuple[RowsDigest, bytes]:
    """The digest of all rows, and a short hash of each row in its order: the last `HASH_BYTES` bytes of its SHA-256.

    Read as big-endian numbers, the hashes add up to the digest's sum modulo 2^64. TypeError as `row_digest`.
    """
    hashes = list(_row_hashes(table))
    digest = RowsDigest(len(hashes), sum(hashes) % _MODULUS)
    return digest, b"".join((value & _LAST_BYTES).to_bytes(HASH_BYTES, "big") for value in hashes)


def _row_hashes(table: pa.Table) -> Iterator[int]:
    for batch in table.to_batches(max_chunksize=4096):
        yield from _batch_hashes(batch)


def _batch_hashes(batch: pa.RecordBatch) -> Iterator[int]:
    names = sorted(batch.schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"duplicate column names: {names}")
    pieces: list[Iterable[bytes]] = [repeat(b"lumina-row/1")]
    for name in names:
        column = batch.column(name)
        try:
            tag, values = _values(column)
        except TypeError as error:
            raise TypeError(f"column {name!r}: {error}") from None
        label, kind = name.encode(), tag.encode()
        pieces += [repeat(_length(len(label)) + label + _length(len(kind)) + kind), values]
    for row in islice(zip(*pieces, strict=False), batch.num_rows):
        yield int.from_bytes(hashlib.sha256(b"".join(row)).digest(), "big")


def _length(size: int) -> bytes:
    return size.to_bytes(8, "little")


def _values(array: pa.Array) -> tuple[str, list[bytes]]:
    """Type tag of `array` and the encoding of each of its values, null flag included."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _values(array.dictionary_decode())
    if pa.types.is_null(kind):
        return "null", [_NULL] * len(array)
    if pa.types.is_boolean(kind):
        return "bool", _fixed(array, pc.fill_null(array, False).cast(pa.uint8()).to_numpy(zero_copy_only=False))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = pc.fill_null(array, 0) if array.null_count else array
        return str(kind), _fixed(array, values.to_numpy(zero_copy_only=False))
    if _is_text(kind):
        return "string", _variable(array.cast(pa.large_binary()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary", _variable(array.cast(pa.large_binary()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        tag, values = _lists(array)
        return f"list<{tag}>", values
    raise TypeError(f"type {kind} has no encoding in {SCHEME}; use numbers, strings, binary, or lists of them")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fixed(array: pa.Array, values: np.ndarray) -> list[bytes]:
    """Encode numbers column-wise: one structured record [flag, length, value] per row, cut at the record size."""
    if array.null_count == len(array):
        return [_NULL] * len(array)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    records = np.empty(len(little), dtype=[("flag", "u1"), ("length", "<u8"), ("value", little.dtype)])
    records["flag"], records["length"], records["value"] = 1, little.dtype.itemsize, little
    raw, size = records.tobytes(), records.dtype.itemsize
    encoded = [raw[at : at + size] for at in range(0, len(raw), size)]
    return _with_nulls(array, encoded)


def _with_nulls(array: pa.Array, encoded: list[bytes]) -> list[bytes]:
    if array.null_count:
        for index in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)):
            encoded[index] = _NULL
    return encoded


def _variable(array: pa.LargeBinaryArray) -> list[bytes]:
    if array.null_count == len(array):
        return [_NULL] * len(array)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
    body, sizes = memoryview(data or b""), np.diff(ends).astype("<i8").tobytes()
    encoded = [
        b"".join((b"\1", sizes[8 * at : 8 * at + 8], body[start:stop]))
        for at, (start, stop) in enumerate(pairwise(ends.tolist()))
    ]
    return _with_nulls(array, encoded)


def _lists(array: pa.Array) -> tuple[str, list[bytes]]:
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    tag, items = _values(array.values)  # `values` ignores the slice offset, as the offsets do
    offsets = array.offsets.to_numpy()
    encoded = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        body = b"".join(items[start:stop])
        encoded.append(b"".join((b"\1", _length(8 + len(body)), _length(stop - start), body)))
    return tag, _with_nulls(array, encoded)
