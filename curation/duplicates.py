"""Copies: rows that ingest sets aside because another row has their content and span.

Whether that other row is well is known later. Where it is not, its copies are not either, and leave with its reason:
what stays aside as `duplicate_content` is a copy of a clip that is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import STATUS_COLUMNS, Reason, Status, iterate

Row = dict[str, Any]
Look = Callable[[Row], Mapping[str, Any]]
_CONTENT = ("sha256", "span_start_s", "span_end_s")


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


def reasons_of_firsts(clips: pa.Table, looked: pa.Table, stage: str) -> dict[str, Row]:
    """`clip_id` of each copy of a clip that a stage quarantined -> the status columns of that clip.

    Args:
        clips: with the content and the span of each row.
        looked: what became of these rows in the stage.
        stage: its name.
    """
    is_broken = pc.and_(pc.equal(looked["status"], Status.QUARANTINED), pc.equal(looked["reason_stage"], stage))
    broken = {row["clip_id"]: row for row in looked.select(["clip_id", *STATUS_COLUMNS]).filter(is_broken).to_pylist()}
    if not broken:
        return {}
    content = clips.select(["clip_id", "reason", *_CONTENT])
    firsts = {_content(row): broken[row["clip_id"]] for row in iterate(content) if row["clip_id"] in broken}
    copies = content.filter(pc.equal(content["reason"], Reason.DUPLICATE_CONTENT))
    return {
        row["clip_id"]: {name: firsts[_content(row)][name] for name in STATUS_COLUMNS}
        for row in iterate(copies)
        if _content(row) in firsts
    }


def _content(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _CONTENT)
