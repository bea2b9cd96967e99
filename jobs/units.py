"""Units of work: rows that are computed together. What is finished and what is not is counted in them.

A row of a unit of its own is a function of what it was planned from alone; a row of a larger unit, the batch of an
encoder, of what the whole unit was planned from.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.digest import MARK_BYTES, row_digest_and_marks
from curation.schema import STATUS_COLUMNS, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIT, UNIT_ROWS = "__unit", "__unit_rows"
_PASSING_ROWS = 1024
"""Rows that nothing is computed for go by many at a time."""


def cut_units(rows: pa.Table, rows_per_unit: int, group: str | None) -> pa.Table:
    """Number the units of work: consecutive `ok` rows of one group, `rows_per_unit` at most; the others separately.

    Returns the rows sorted by unit, with the columns `__unit` and `__unit_rows` added.
    """
    is_ok = pc.equal(rows["status"], Status.OK).to_pylist()
    groups = rows[group].to_pylist() if group else [None] * len(rows)
    filling: dict[tuple[bool, Any], int] = {}
    sizes: list[int] = []
    units = []
    for key in zip(is_ok, groups, strict=True):
        unit = filling.get(key)
        if unit is None or sizes[unit] == (rows_per_unit if key[0] else _PASSING_ROWS):
            unit = filling[key] = len(sizes)
            sizes.append(0)
        sizes[unit] += 1
        units.append(unit)
    table = rows.append_column(UNIT, pa.array(units, pa.int64()))
    table = table.append_column(UNIT_ROWS, pa.array([sizes[unit] for unit in units], pa.int32()))
    # Units of one group side by side, so that a block, and with it a file, holds few groups.
    order = sorted(range(len(units)), key=lambda at: (not is_ok[at], str(groups[at]), units[at], at))
    return table.take(pa.array(order, pa.int64()))


def cut_blocks(units: pa.Table, rows_per_block: int) -> list[pa.Table]:
    """Cut a table of units into blocks of whole units with about `rows_per_block` rows."""
    sizes = units[UNIT_ROWS].to_pylist()
    blocks, start, at = [], 0, 0
    while at < len(units):
        at += sizes[at]
        if at - start >= rows_per_block or at == len(units):
            blocks.append(units.slice(start, at - start).combine_chunks())
            start = at
    return blocks


def given_marks(units: pa.Table, key: str, carries: Sequence[str]) -> dict[str, bytes]:
    """Id of each `ok` row -> a mark of all that it is computed from: its columns, and those of its unit's other rows.

    Args:
        units: see `cut_units`.
        key: column of the ids.
        carries: columns from which nothing is computed.
    """
    well = units.filter(pc.equal(units["status"], Status.OK))
    unread = {*carries, *STATUS_COLUMNS, UNIT, UNIT_ROWS} & set(well.column_names)
    _, marks = row_digest_and_marks(well.drop_columns(sorted(unread)))
    each = [marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES)]
    numbers = well[UNIT].to_pylist()
    together: dict[int, bytes] = {}
    for number, mark in zip(numbers, each, strict=True):
        together[number] = together.get(number, b"") + mark
    return {
        name: mark if together[number] == mark else _combined(mark, together[number])
        for name, number, mark in zip(well[key].to_pylist(), numbers, each, strict=True)
    }


def _combined(mark: bytes, unit: bytes) -> bytes:
    return hashlib.blake2b(mark + unit, digest_size=MARK_BYTES).digest()
