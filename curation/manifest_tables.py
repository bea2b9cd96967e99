"""The rows of a CSV, JSON lines or Parquet file, each with the place that an error about it names."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from curation.manifest_csv import csv_rows, long_fields
from curation.manifest_lines import Lines, text_lines
from curation.manifest_mistakes import ManifestError, Mistakes
from curation.manifest_parquet import SmallParquet, small_parquet
from curation.media_uris import member_uri
from curation.parquet_cells import bytes_columns, cell_name

JSON_LINES = frozenset({".jsonl", ".ndjson"})
PARQUET = frozenset({".parquet"})
BYTES_NAMES = frozenset({
    "video", "image", "file", "bytes", "content", "mp4", "webm", "video_bytes", "image_bytes", "png", "jpg", "jpeg",
})  # fmt: skip
"""Columns of Parquet that hold the media themselves, where they hold bytes."""
_DEPTH = 64

Kinds = Sequence[Sequence[str]]
"""The columns that formats know: each with the others that mean the same."""
_Meant = Callable[[tuple[str, ...]], tuple[str, ...]]
Headless = Callable[[Sequence[str]], tuple[str, ...] | None]
"""The columns of a CSV whose first row is one of its rows; None for a header."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table."""

    number: int
    """Line or row, from 1."""
    where: str
    """`line 2`, or `row 2` of Parquet: how mistakes begin."""
    cells: Mapping[str, Any]
    """Column to value: text from CSV, else numbers, text, truth values, lists and dicts of these, or None."""


@dataclass(frozen=True)
class Table:
    """A file that was opened: its columns, and its rows as they are read."""

    names: tuple[str, ...]
    """Columns, as the formats spell them; of JSON lines those of the first."""
    records: Iterable[Record]
    holds_media: bool = False
    """Whether cells hold the bytes of media; a record has their URI in its column `video`."""


@contextmanager
def opened(path: Path, kinds: Kinds, mistakes: Mistakes, headless: Headless = lambda _cells: None) -> Iterator[Table]:
    """Open a table by its extension: JSON lines, Parquet, else CSV, which `headless` may know without a header.

    Rows that are none are left out, and added to `mistakes`. ManifestError for what is not such a file.
    """
    extension = path.suffix.lower()
    if extension == ".json":
        raise ManifestError(f"manifest {path}: give JSON lines, one object a line, in a file named *.jsonl")

    @lru_cache(maxsize=64)
    def meant(names: tuple[str, ...]) -> tuple[str, ...]:
        return known_as(names, kinds)

    if extension in PARQUET:
        with _parquet(path, meant, mistakes) as table:
            yield table
        return
    with text_lines(path, mistakes) as lines, long_fields():
        if extension in JSON_LINES:
            yield _json_lines(lines, meant, mistakes)
        else:
            yield _csv(lines, kinds, meant, mistakes, headless)


def known_as(names: Sequence[str], kinds: Kinds) -> tuple[str, ...]:
    """The names with capitals, blanks and hyphens as the formats have them, where no column is spelt so already.

    ValueError for two columns that would become the same.
    """
    meant = [name.strip() for name in names]
    for kind in kinds:
        if set(kind).isdisjoint(meant):
            spelt = {plain(name): name for name in kind}
            meant = [spelt.get(plain(name), name) for name in meant]
    twice = [name for name, other in zip(names, meant, strict=True) if meant.count(other) > 1]
    if twice:
        listed = ", ".join(dict.fromkeys(name.strip() for name in twice))
        raise ValueError(f"has the column(s) {listed} twice, capitals aside: rename or remove one")
    return tuple(meant)


def plain(name: str) -> str:
    """A column's name without regard to capitals, blanks and hyphens: `File-Name` is `file_name`."""
    return "_".join(name.replace("-", " ").replace("_", " ").split()).casefold()


def as_json(value: Mapping[str, Any], where: str) -> str:
    """A JSON object of columns; dates and decimals become text, and so do numbers that are not finite.

    ManifestError for binary values, which would be copied into every table.
    """
    plain = {name: _plain(child, f"{where}: column {name!r}", _DEPTH) for name, child in value.items()}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


def _plain(value: Any, where: str, depth: int) -> Any:
    if not depth:
        raise ManifestError(f"{where} is nested over {_DEPTH} deep: leave the column out")
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(child, where, depth - 1) for child in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(child, where, depth - 1) for key, child in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise ManifestError(f"{where} holds {type(value).__name__}, which has no JSON form: leave the column out")


def _header(path: Path, names: Sequence[str], meant: _Meant) -> tuple[str, ...]:
    try:
        return meant(tuple(names))
    except ValueError as error:
        raise ManifestError(f"manifest {path} {error}") from error


def _csv(lines: Lines, kinds: Kinds, meant: _Meant, mistakes: Mistakes, headless: Headless) -> Table:
    known = frozenset(plain(name) for kind in kinds for name in kind)
    rows = csv_rows(lines, lambda name: plain(name) in known, mistakes)
    number, header = next(rows, (0, []))
    if given := headless(header):
        return Table(given, _csv_records(chain([(number, header)], rows), given, given, mistakes))
    names = _header(lines.path, [name for name in header if name.strip()], meant)
    return Table(names, _csv_records(rows, header, names, mistakes))


def _csv_records(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], names: tuple[str, ...], mistakes: Mistakes
) -> Iterator[Record]:
    width = len(header)
    named = [place for place, name in enumerate(header) if name.strip()]
    unnamed = [place for place, name in enumerate(header) if not name.strip()]
    for number, cells in rows:
        # Spreadsheets write empty cells to the right of what they hold.
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if len(cells) != width:
            hint = "; a cell that holds the separator needs quotation marks" if len(cells) > width else ""
            text = f"the number of cells differs from the header's: {len(cells)}, not {width}{hint}"
            mistakes.add(number, f"line {number}: {text}")
            continue
        nameless = next((place for place in unnamed if cells[place].strip()), None)
        if nameless is not None:
            text = f"column {nameless + 1} has an empty column name, but holds {cells[nameless]!r:.60}"
            mistakes.add(number, f"line {number}: {text}: name it in the header, or empty it")
            continue
        values = (cells[place] for place in named)
        yield Record(number, f"line {number}", dict(zip(names, values, strict=True)))


def _json_lines(lines: Lines, meant: _Meant, mistakes: Mistakes) -> Table:
    records = _json_records(lines, meant, mistakes)
    first = next(records, None)
    return Table(tuple(first.cells) if first else (), _chained(first, records))


def _json_records(lines: Lines, meant: _Meant, mistakes: Mistakes) -> Iterator[Record]:
    while True:
        number = lines.begin()
        line = next(lines, None)
        if line is None:
            return
        if lines.is_text(mistakes) and line.strip():
            where = f"line {number}"
            try:
                cells = json_object(line, meant)
            except (ValueError, RecursionError) as error:
                mistakes.add(number, f"{where}: {_json_fault(error)}")
            else:
                yield Record(number, where, cells)


def json_object(text: str, meant: _Meant) -> dict[str, Any]:
    """The columns that a JSON object has, by the names that `meant` gives them.

    ValueError, of which json.JSONDecodeError is one, and RecursionError for a text that is none, or has a key twice.
    """
    cells = json.loads(text.rstrip(), object_pairs_hook=_unique)
    if not isinstance(cells, dict):
        raise ValueError(f"expected a JSON object, found {type(cells).__name__}")
    if "\\u" in text and not is_unicode(json.dumps(cells, ensure_ascii=False)):
        raise ValueError("half of a surrogate pair, which is no character")
    return dict(zip(meant(tuple(cells)), cells.values(), strict=True))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} (character {error.colno})"
    return f"no JSON: {error}" if isinstance(error, RecursionError) else str(error)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
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
def _parquet(path: Path, meant: _Meant, mistakes: Mistakes) -> Iterator[Table]:
    try:
        with small_parquet(path) as file:
            names = _header(path, file.names, meant)
            holds = [own for own, name in zip(file.names, names, strict=True) if name in BYTES_NAMES]
            media = bytes_columns(file.schema, holds)
            if not media:
                yield Table(names, _parquet_records(file, names, mistakes))
                return
            rest = [(own, name) for own, name in zip(file.names, names, strict=True) if own not in media]
            records = _media_records(file, path.name, media, rest, mistakes)
            yield Table((*(name for _, name in rest), "video"), records, holds_media=True)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"manifest {path} is not a Parquet file: {error}") from error


def _parquet_records(file: SmallParquet, names: tuple[str, ...], mistakes: Mistakes) -> Iterator[Record]:
    number = 0
    for batch in file.batches():
        for cells in _parquet_cells(batch.rename_columns(list(names))):
            number += 1
            if isinstance(cells, str):
                mistakes.add(number, f"row {number}: the column {cells} holds text that is not UTF-8: write it anew")
            else:
                yield Record(number, f"row {number}", cells)


def _media_records(
    file: SmallParquet, table: str, media: Sequence[str], rest: Sequence[tuple[str, str]], mistakes: Mistakes
) -> Iterator[Record]:
    """Rows with the URI of the cell that holds their bytes, which are not read."""
    names = [name for _, name in rest]
    paths = [f"{name}.path" for name in media if pa.types.is_struct(file.schema.field(name).type)]
    number = 0
    for batch in file.batches([*(own for own, _ in rest), *paths]):
        told = batch.select([own for own, _ in rest]).rename_columns(names)
        called = {name: _file_names(batch[name]) for name in media if f"{name}.path" in paths}
        for at, cells in enumerate(_parquet_cells(told)):
            number += 1
            if isinstance(cells, str):
                mistakes.add(number, f"row {number}: the column {cells} holds text that is not UTF-8: write it anew")
                continue
            given = {name: called[name][at] for name in called}
            column = next((name for name in media if given.get(name)), media[0])
            name = cell_name(column, number - 1, given.get(column, ""))
            # What names another file is where this one is from.
            yield Record(number, f"row {number}", {**cells, "video": member_uri(table, name, "parquet")})


def _file_names(column: pa.Array) -> list[str]:
    """What the files of some cells are called; empty where that is no text, since it tells their extension alone."""

    def name(cell: pa.StructScalar) -> str:
        try:
            return PurePosixPath((cell.as_py() or {}).get("path") or "").name
        except UnicodeDecodeError:
            return ""

    return [name(cell) for cell in column]


def _parquet_cells(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The cells of each row, or the name of the column whose text is none: Parquet does not check what it stores."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(len(batch)):
            cells: dict[str, Any] = {}
            try:
                for name in batch.schema.names:
                    cells[name] = batch[name][row].as_py()
            except UnicodeDecodeError:
                yield batch.schema.names[len(cells)]
            else:
                yield cells
