"""Rows of earlier outputs of a stage that need not be computed again.

What a row's computation is given is in the plan: where an earlier output of the same recipe was given the same for a
clip, it holds the same result, whatever other clips came or went. Columns that a row only carries are those of now.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digest import row_digest_and_marks
from jobs.parts import read_parts, write_units
from jobs.row_index import INDEX_FILE, read_given
from jobs.units import UNIT, UNIT_ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from curation.operator import Layout, Operator
    from jobs.context import EarlierOutput

log = logging.getLogger(__name__)

_DATA_FILE = re.compile(r"data/(?!\.)[^/\0]+\.parquet")


def take(
    earlier: Sequence[EarlierOutput],
    units: pa.Table,
    marks: Mapping[str, bytes],
    operator: Operator,
    directory: Path,
    layout: Layout,
) -> None:
    """Write parts of the rows that an earlier output has, as far as they fill whole units.

    Args:
        earlier: outputs of the operator with this config, these weights and this code.
        units: see `jobs.units.cut_units`.
        marks: see `jobs.units.given_marks`.
        operator: of the stage.
        directory: where the parts go.
        layout: of the parts.
    """
    sizes = zip(units[UNIT].to_pylist(), units[UNIT_ROWS].to_pylist(), strict=True)
    names = units[operator.key].to_pylist()
    by_id = dict(zip(names, sizes, strict=True))
    places = {name: at for at, name in enumerate(names)}
    for output in earlier:
        done = {unit for part in read_parts(directory) for unit in part.units}
        missing = {name: mark for name, mark in marks.items() if by_id[name][0] not in done}
        if not missing:
            return
        try:
            files = _wanted(output.fetch(lambda path: path == INDEX_FILE), missing)
            data = output.fetch(files.__contains__)
            found = (_rows(data / file, files[file], operator.key) for file in sorted(files))
            rows = (_as_planned(one, units, places, operator) for one in found)
            write_units(rows, by_id, operator.key, directory, layout, output.fingerprint)
        except (FileNotFoundError, ValueError) as error:
            # What it has taken is whole; the rest is computed.
            log.warning("%s: an earlier output is damaged, so rows are computed again: %s", operator.name, error)


def _wanted(out: Path, marks: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """File -> id -> mark of the rows in it that were given what they would be given now."""
    found: dict[str, dict[str, bytes]] = {}
    for batch in read_given(out).to_batches():
        for row in batch.to_pylist():
            if not _DATA_FILE.fullmatch(row["file"] or ""):
                raise ValueError(f"{out / INDEX_FILE} names {row['file']!r:.80}, which is no file of rows")
            if marks.get(row["id"]) == row["given"]:
                found.setdefault(row["file"], {})[row["id"]] = row["mark"]
    return found


def _rows(file: Path, wanted: Mapping[str, bytes], key: str) -> pa.Table:
    """The wanted rows of a file. ValueError if it is not what was written."""
    try:
        rows = pq.read_table(file, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    rows = rows.filter(pc.is_in(rows[key], pa.array(wanted, pa.string())))
    _, marks = row_digest_and_marks(rows)
    if marks != b"".join(wanted[name] for name in rows[key].to_pylist()) or len(rows) != len(wanted):
        raise ValueError(f"{file}: its rows are not what was written")
    return rows


def _as_planned(rows: pa.Table, units: pa.Table, places: Mapping[str, int], operator: Operator) -> pa.Table:
    """The rows with the columns that they carry as these are planned now."""
    at = pa.array([places[name] for name in rows[operator.key].to_pylist()], pa.int64())
    for column, field in enumerate(rows.schema):
        if field.name in operator.carries:
            rows = rows.set_column(column, field, units[field.name].take(at).cast(field.type))
    return rows
