"""Formats of exported clips: shards of a WebDataset (tar), of Parquet or of CSV, the same bytes for the same rows.

What would tell where and when it was written is left out: owners, times and the order of a folder.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

Format = Literal["webdataset", "parquet", "csv"]
SUFFIXES: Mapping[Format, str] = {"webdataset": ".tar", "parquet": ".parquet", "csv": ".csv"}
CLIPS_FOLDER = "clips"
"""Where the clips of a CSV lie, in a folder for each shard."""
_GROUP_BYTES = 64 << 20
_GROUP_ROWS = 4096
_CELL_BYTES = (2 << 30) - 2 * _GROUP_BYTES
"""Of a clip in Parquet at most: the bytes of a group of rows are counted by signed numbers of 32 bits."""
MEDIA_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""As `datasets` stores a video or an image in Parquet."""
FORMULA = ("=", "+", "-", "@")
"""How a text begins that a spreadsheet takes for a formula."""

Row = Mapping[str, Any]
Exported = tuple[Row, Path | None]
"""A row, and the file of its clip."""


def write_shard(
    format: Format, path: Path, schema: pa.Schema, rows: Iterable[Exported], beside: Callable[[Path], None]
) -> None:
    """Write one shard.

    Args:
        format: of the file.
        path: the file.
        schema: columns of the rows; of Parquet with clips, with those of `MEDIA_TYPE`, which the rows lack.
        rows: in their order, each with the file of its clip, if there is one.
        beside: moves the file of a clip to where those of a CSV lie.

    Raises:
        OSError: it cannot be written, or a clip is too large for a cell of Parquet.
    """
    if format == "webdataset":
        _write_tar(path, schema, rows)
    elif format == "parquet":
        _write_parquet(path, schema, rows)
    else:
        _write_csv(path, schema, rows, beside)


def as_json(row: Row, names: Iterable[str]) -> str:
    """A row as JSON: its columns in their order, null for a number that is not finite."""
    values = {name: row.get(name) for name in names}
    plain = {name: None if isinstance(value, float) and not math.isfinite(value) else value
             for name, value in values.items()}  # fmt: skip
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def _write_tar(path: Path, schema: pa.Schema, rows: Iterable[Exported]) -> None:
    # Headers as of USTAR, but for files of 8 GiB and more.
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for row, clip in rows:
            name = row["clip_id"]
            for ending, text in ((".json", as_json(row, schema.names)), (".txt", row["caption"] or "")):
                content = text.encode()
                archive.addfile(_member(name + ending, len(content)), io.BytesIO(content))
            if clip is not None:
                with clip.open("rb") as file:
                    archive.addfile(_member(name + clip.suffix, clip.stat().st_size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode, found.mtime = size, 0o644, 0
    return found


def _write_parquet(path: Path, schema: pa.Schema, rows: Iterable[Exported]) -> None:
    media = [field.name for field in schema if field.type == MEDIA_TYPE]
    plain = [name for name in schema.names if name not in media]
    # Films are compressed already.
    compression = {f"{name}.bytes": "none" for name in media}
    compression |= dict.fromkeys((*plain, *(f"{name}.path" for name in media)), "zstd")
    options = {"compression": compression, "use_dictionary": plain, "write_statistics": plain}
    with pq.ParquetWriter(path, schema, **options) as writer:
        waiting: list[Row] = []
        size = 0
        for row, clip in rows:
            own: dict[str, Any] = {}
            if clip is not None:
                if (found := clip.stat().st_size) > _CELL_BYTES:
                    told = f"a cell of Parquet holds {_CELL_BYTES:,} bytes, and this clip has {found:,}"
                    raise OSError(errno.EFBIG, f"{told}: export it --as webdataset or csv", str(clip))
                content = clip.read_bytes()
                own, size = {row["media"]: {"bytes": content, "path": clip.name}}, size + len(content)
            waiting.append({**row, **own})
            if size >= _GROUP_BYTES or len(waiting) == _GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting, size = [], 0
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, schema))


def _write_csv(path: Path, schema: pa.Schema, rows: Iterable[Exported], beside: Callable[[Path], None]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        # Of its own, Python quotes no carriage return, which ends a line for whoever reads.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(schema.names)
        for row, clip in rows:
            if clip is not None:
                beside(clip)
            cells = [_cell(row.get(name)) for name in schema.names]
            breaks = any(isinstance(cell, str) and "\r" in cell for cell in cells)
            (quoting if breaks else writer).writerow(cells)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value
