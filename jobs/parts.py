"""Finished work of a stage as it lies on the disk: Parquet files, and behind them one record per part.

A part holds whole units of work. Its files come first and its record last, each put under its name when it is complete
and on the disk; so whatever was killed, the parts with a record are what need not be computed again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import RowsDigest, row_digest_and_marks
from curation.operator import Layout
from curation.schema import counts
from jobs.files import link_or_copy

log = logging.getLogger(__name__)

_BATCH_BYTES = 256 << 20
_FILE = re.compile(r"part-\d+-\d+-n(\d+)\.parquet")


@dataclass(frozen=True)
class PartFile:
    """One Parquet file."""

    name: str
    rows: int
    digest: RowsDigest
    marks: bytes
    """Of its rows; see `curation.digest.row_digest_and_marks`."""


@dataclass(frozen=True)
class Part:
    """What one worker put on the disk at once."""

    units: tuple[int, ...]
    files: tuple[PartFile, ...]
    counts: Counter[str] = field(hash=False)
    """See `curation.schema.counts`."""
    taken_from: str = ""
    """Fingerprint of the earlier output whose rows these are; empty for rows that were computed."""


def write_part(table: pa.Table, units: Sequence[int], directory: Path, layout: Layout, taken_from: str = "") -> Part:
    """Write `table`, the rows of `units`, as one file, or as one per value of `layout.split_by`, and its record.

    Names derive from the first unit alone, so that work that is done twice replaces itself.
    """
    tables = [table]
    if layout.split_by is not None:
        column = table[layout.split_by]
        values = sorted(pc.unique(column).to_pylist(), key=lambda value: (value is None, value))
        tables = [
            table.filter(pc.is_null(column) if value is None else pc.equal(column, value).fill_null(False))
            for value in values
        ]
    files = []
    for number, rows in enumerate(tables):
        name = f"part-{units[0]:08}-{number:03}-n{len(rows)}.parquet"
        partial = directory / f".{name}.{uuid.uuid4().hex}"
        pq.write_table(
            rows,
            partial,
            row_group_size=_row_group_size(rows, layout),
            compression=layout.compression,
            use_dictionary=layout.use_dictionary,
        )
        _put(partial, directory / name)
        files.append(PartFile(name, len(rows), *row_digest_and_marks(rows)))
    part = Part(tuple(units), tuple(files), Counter(counts(table)), taken_from)
    record = {
        "units": part.units,
        "files": [
            {"name": file.name, "rows": file.rows, "digest": str(file.digest), "marks": file.marks.hex()}
            for file in files
        ],
        "counts": part.counts,
        "taken_from": part.taken_from,
    }
    path = record_path(directory, units[0])
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.write_text(json.dumps(record), encoding="utf-8")
    _put(partial, path)
    return part


def write_units(
    tables: Iterable[pa.Table],
    units: Mapping[str, tuple[int, int]],
    key: str,
    directory: Path,
    layout: Layout,
    taken_from: str = "",
) -> None:
    """Write rows that are there already as parts, as far as they fill whole units that are in no part yet.

    Args:
        tables: the rows, some at a time.
        units: id of each planned row -> (its unit, number of rows of the unit).
        key: column of the ids.
        directory: where the parts go.
        layout: of the parts.
        taken_from: see `Part`.
    """
    done = {unit for part in read_parts(directory) for unit in part.units}
    found: dict[int, list[pa.Table]] = {}
    whole: dict[int, pa.Table] = {}

    def write() -> None:
        if whole:
            rows = pa.concat_tables(whole.values()).combine_chunks()
            write_part(rows, list(whole), directory, layout, taken_from)
            whole.clear()

    held = 0
    for rows in tables:
        for at, name in enumerate(rows[key].to_pylist()):
            unit, size = units.get(name, (-1, 0))
            if unit < 0 or unit in done:
                continue
            found.setdefault(unit, []).append(rows.slice(at, 1))
            if len(found[unit]) == size:
                whole[unit] = pa.concat_tables(found.pop(unit))
        held += rows.nbytes
        if held > _BATCH_BYTES:
            write()
            held = 0
    write()


def record_path(directory: Path, first_unit: int) -> Path:
    """Where the record of the part lies that begins with this unit."""
    return directory / f"part-{first_unit:08}.json"


def read_part(path: Path) -> Part:
    """Read a record. ValueError if it is none, or names a file that is not beside it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(
            PartFile(
                _own(file["name"]), int(file["rows"]), RowsDigest.parse(file["digest"]), bytes.fromhex(file["marks"])
            )
            for file in record["files"]
        )
        units = tuple(map(int, record["units"]))
        return Part(units, files, Counter(record["counts"]), record["taken_from"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a part: {error!r}") from error


def _own(name: str) -> str:
    if not _FILE.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no name of a part")
    return name


def read_parts(directory: Path) -> list[Part]:
    """The whole parts in `directory`, in order, such that no unit is in two of them.

    Two workers may have done the same unit (one was taken for dead); the later part is then left out, whole.
    """
    parts, seen = [], set[int]()
    for path in sorted(directory.glob("part-*.json")):
        try:
            part = read_part(path)
        except ValueError as error:
            log.warning("%s; its rows are computed again", error)
            continue
        if seen.isdisjoint(part.units) and all(_is_here(directory / file.name) for file in part.files):
            seen.update(part.units)
            parts.append(part)
    return parts


def _is_here(path: Path) -> bool:
    """A link is not: it may lead anywhere."""
    return path.is_file() and not path.is_symlink()


def link_parts(parts: Iterable[Part], source: Path, target: Path) -> None:
    """Put the files of finished parts where the stage's output belongs; they stay, in case it is never committed."""
    for part in parts:
        for file in part.files:
            link_or_copy(source / file.name, target / file.name)


def rows_written(directory: Path) -> int:
    """Rows of the files in `directory`, from their names alone."""
    matches = (_FILE.fullmatch(path.name) for path in directory.iterdir())
    return sum(int(match[1]) for match in matches if match)


def _row_group_size(table: pa.Table, layout: Layout) -> int:
    most = layout.row_group_bytes * len(table) // max(1, table.nbytes)
    return max(1, min(layout.row_group_size, most))


def _put(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
