"""Copies: rows that ingest sets aside because another row has their content and span.

Whether that other row is well is known later. Where it is not, its copies are not either, and leave with its reason:
what stays aside as `duplicate_content` is a copy of a clip that is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import STATUS_COLUMNS, Reason, Status

Row = dict[str, Any]
Look = Callable[[Row], Mapping[str, Any]]


def with_copies(clips: pa.Table) -> pa.Table:
    """Clips as a plan in which copies are looked at too: they are `ok`, and their reason alone tells what they are."""
    is_copy = pc.equal(clips["reason"], Reason.DUPLICATE_CONTENT).fill_null(False)
    status = pc.if_else(is_copy, str(Status.OK), clips["status"])
    return clips.set_column(clips.column_names.index("status"), "status", status)


def copies_aside(look: Look) -> Look:
    """`look` at a row of `with_copies`; a copy that comes through is set aside as it was before."""

    def looked(row: Row) -> Mapping[str, Any]:
        found = look(row)
        if row["reason"] != Reason.DUPLICATE_CONTENT:
            return found
        return {name: row[name] for name in STATUS_COLUMNS} | {"status": Status.FILTERED}

    return looked


def like_their_first(rows: Sequence[Row], stage: str) -> list[Row]:
    """The rows, such that the copies of those that `stage` found broken leave for the same reason."""
    broken = {
        _content(row): row for row in rows if row["status"] == Status.QUARANTINED and row["reason_stage"] == stage
    }
    return [
        row | {name: broken[_content(row)][name] for name in STATUS_COLUMNS}
        if row["reason"] == Reason.DUPLICATE_CONTENT and _content(row) in broken
        else row
        for row in rows
    ]


def _content(row: Row) -> tuple[Any, ...]:
    return row["sha256"], row["span_start_s"], row["span_end_s"]
