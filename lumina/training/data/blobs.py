"""Blobs in Parquet: read tensors, raw little-endian bytes in a binary column, row by row in any order.

A row group is the unit of reading, and the row groups read last stay in memory up to a bound, which for a small dataset
means all of them.
"""

from __future__ import annotations

import math
import resource
import struct
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lumina.training.data.index import Index, Place

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

CACHE_BYTES = 1 << 30
"""Bytes of decoded row groups that one reader keeps."""

OPEN_FILES = 1024
"""Files that one reader keeps open at most, and no more than a quarter of what the system allows the process: opening
one costs more than reading a clip from it."""

REMEMBERED = 1 << 14
"""Rows whose places and clips stay in memory as they are asked for."""


@dataclass(frozen=True)
class _Group:
    """One row group in memory, with the tensors that were asked for: views of the same memory."""

    blobs: pa.LargeBinaryArray
    tensors: dict[int, torch.Tensor]


class _File:
    """A Parquet file, open from the first read on until nobody holds it. It serves one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetFile | None = None
        self._lock = Lock()

    def read(self, group: int, column: str) -> pa.LargeBinaryArray:
        import pyarrow.parquet as pq

        with self._lock:
            if self._file is None:
                self._file = pq.ParquetFile(self._path, memory_map=True)
            found = self._file.read_row_group(group, columns=[column], use_threads=False).column(0)
        # Combining would copy even a single chunk.
        return found.chunk(0) if found.num_chunks == 1 else found.combine_chunks()


class BlobReader:
    """Tensors stored as bytes in a column of Parquet files, by row number.

    Threads may share a reader: they read different files at the same time, and what two of them want is read once.
    """

    def __init__(self, index: Index, column: str, cache_bytes: int = CACHE_BYTES) -> None:
        """Read what `index` lists from `column`; keep at most `cache_bytes` of row groups, and at least one."""
        self._column = column
        self._cache_bytes = cache_bytes
        self._place = lru_cache(maxsize=REMEMBERED)(index.place)
        self._most_open = _most_open()
        self._open: OrderedDict[Path, _File] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int], _Group] = OrderedDict()
        self._reading: dict[tuple[Path, int], Future[_Group]] = {}
        self._held = 0
        # For what is kept: nothing is read under it.
        self._lock = Lock()

    def read(self, row: int) -> torch.Tensor:
        """Return one row's tensor, which shares memory with the cache: do not write to it.

        Raises ValueError if the bytes do not fit the row's shape and dtype.
        """
        place = self._place(row)
        group = self._group((place.path, place.group))
        if place.offset not in group.tensors:
            group.tensors[place.offset] = self._decode(group.blobs, place)
        return group.tensors[place.offset]

    def _decode(self, blobs: pa.LargeBinaryArray, place: Place) -> torch.Tensor:
        import torch

        where = f"{place.path}, row group {place.group}, row {place.offset}"
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}.get(place.dtype)
        if dtype is None:
            raise ValueError(f"{where}: dtype {place.dtype!r} is not bfloat16, float16 or float32: encode again")
        expected = math.prod(place.shape) * dtype.itemsize
        # A value taken from the array would be a copy, and read-only, of which torch warns.
        _, offsets, data = blobs.buffers()
        at = 8 * (blobs.offset + place.offset)
        start, end = struct.unpack("<qq", offsets[at : at + 16].to_pybytes())
        if end - start != expected:
            raise ValueError(
                f"{where}: {self._column} holds {end - start} bytes, but shape {place.shape} of {place.dtype} takes "
                f"{expected}: encode again"
            )
        if expected == 0:
            return torch.empty(place.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=math.prod(place.shape), offset=start).view(place.shape)

    def _group(self, key: tuple[Path, int]) -> _Group:
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
            others = self._reading.get(key)
            if others is None:
                own = self._reading[key] = Future[_Group]()
                file = self._file(key[0])
        if others is not None:
            return others.result()
        try:
            group = _Group(file.read(key[1], self._column), {})
        except BaseException as error:
            with self._lock:
                del self._reading[key]
            own.set_exception(error)
            raise
        with self._lock:
            del self._reading[key]
            self._groups[key] = group
            self._held += group.blobs.nbytes
            while self._held > self._cache_bytes and len(self._groups) > 1:
                self._held -= self._groups.popitem(last=False)[1].blobs.nbytes
        own.set_result(group)
        return group

    def _file(self, path: Path) -> _File:
        if path not in self._open:
            while len(self._open) >= self._most_open:
                self._open.popitem(last=False)
            self._open[path] = _File(path)
        self._open.move_to_end(path)
        return self._open[path]


def _most_open() -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if allowed == resource.RLIM_INFINITY else max(1, min(OPEN_FILES, allowed // 4))
