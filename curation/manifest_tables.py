"""The rows of a CSV, JSON lines or Parquet file, each with the place that an error about it names."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

JSON_LINES = frozenset({".jsonl", ".ndjson"})
PARQUET = frozenset({".parquet"})
_BATCH_ROWS = 4096
_FIELD_CHARS = 1 << 24


class ManifestError(ValueError):
    """The manifest cannot be used; nothing has been done yet."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table."""

    where: str
    """File and line, or file and row: how errors begin."""
    cells: Mapping[str, Any]
    """Column to value: text from CSV, else numbers, text, truth values, lists and dicts of these, or None."""


@dataclass(frozen=True)
class Table:
    """A file that was opened: its columns, and its rows as they are read."""

    names: tuple[str, ...]
    """Columns; of JSON lines those of the first."""
    records: Iterable[Record]


@contextmanager
def opened(path: Path) -> Iterator[Table]:
    """Open a table by its extension: JSON lines, Parquet, else CSV. ManifestError for what is not such a file."""
    extension = path.suffix.lower()
    if extension == ".json":
        raise ManifestError(f"manifest {path}: give JSON lines, one object a line, in a file named *.jsonl")
    read = _parquet if extension in PARQUET else _json_lines if extension in JSON_LINES else _csv
    with read(path) as table:
        yield table


def as_json(value: Mapping[str, Any], where: str) -> str:
    """A JSON object of columns; dates and decimals become text, and so do numbers that are not finite.

    ManifestError for binary values, which would be copied into every table.
    """
    plain = {name: _plain(child, f"{where}: column {name!r}") for name, child in value.items()}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(child, where) for child in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(child, where) for key, child in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise ManifestError(f"{where} holds {type(value).__name__}, which has no JSON form: leave the column out")


@contextmanager
def _csv(path: Path) -> Iterator[Table]:
    limit = csv.field_size_limit(_FIELD_CHARS)  # the module's own would refuse the captions of a long video
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            _check_unique(path, names)
            yield Table(tuple(names), _csv_records(path, reader))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {path} is not a UTF-8 CSV file: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _csv_records(path: Path, reader: csv.DictReader[str]) -> Iterator[Record]:
    for cells in reader:
        where = f"manifest {path}, line {reader.line_num}"
        if None in cells or None in cells.values():
            raise ManifestError(f"{where}: the number of cells differs from the header's")
        yield Record(where, cells)


@contextmanager
def _json_lines(path: Path) -> Iterator[Table]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            records = _json_records(path, file)
            first = next(records, None)
            yield Table(tuple(first.cells) if first else (), _chained(first, records))
    except UnicodeDecodeError as error:
        raise ManifestError(f"manifest {path} is not a UTF-8 file: {error}") from error


def _json_records(path: Path, lines: Iterable[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"manifest {path}, line {number}"
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: no JSON: {error}") from error
        if not isinstance(cells, dict):
            raise ManifestError(f"{where}: expected a JSON object, found {type(cells).__name__}")
        if "\\u" in line and not _is_unicode(json.dumps(cells, ensure_ascii=False)):
            raise ManifestError(f"{where}: half of a surrogate pair, which is no character")
        yield Record(where, cells)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _chained(first: Record | None, rest: Iterator[Record]) -> Iterator[Record]:
    if first is not None:
        yield first
        yield from rest


@contextmanager
def _parquet(path: Path) -> Iterator[Table]:
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _check_unique(path, names)
            yield Table(tuple(names), _parquet_records(path, file))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"manifest {path} is not a Parquet file: {error}") from error


def _parquet_records(path: Path, file: pq.ParquetFile) -> Iterator[Record]:
    number = 0
    for batch in file.iter_batches(_BATCH_ROWS):
        for cells in batch.to_pylist():
            number += 1
            yield Record(f"manifest {path}, row {number}", cells)


def _check_unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"manifest {path} has the column(s) {', '.join(twice)} twice")
