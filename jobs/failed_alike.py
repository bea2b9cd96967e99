"""Rows that fail alike: a systematic fault shows as one reason for a large share of a stage's rows.

Single clips are broken each in its own way. Where many leave for one reason, the machine or a setting is the likelier
cause; written down, the rows would stay broken after it is mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import Status
from jobs.parts import read_parts, record_path
from lumina.faults import MachineError

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from curation.operator import Operator
    from jobs.context import JobContext

LEAST = 20
"""Fewer rows are no ground for suspicion."""


def check_failed_alike(ctx: JobContext, operator: Operator, planned: pa.Table, written: ds.Dataset) -> None:
    """MachineError if more than `runtime.max_failed_share` of the rows that came in well are quarantined alike.

    Parts with such rows are then taken from the scratch directory, so that the next run computes them again.

    Args:
        ctx: of the stage.
        operator: what it runs.
        planned: its rows before; what is not well there does not count.
        written: its rows after.
    """
    before, came_well = (
        _quarantined(planned, operator.name),
        pc.sum(pc.equal(planned["status"], Status.OK)).as_py() or 0,
    )
    columns = ["status", "reason", "reason_stage"]
    after = _quarantined(written.to_table(columns=columns), operator.name)
    failed = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    reason, count = max(failed.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if count < LEAST or count <= ctx.runtime.max_failed_share * came_well:
        return
    scratch = ctx.work / "parts"
    for part in read_parts(scratch):
        if any(key == f"{Status.QUARANTINED}/{reason}" for key in part.counts):
            record_path(scratch, part.units[0]).unlink(missing_ok=True)
    raise MachineError(
        f"{count} of {came_well} rows failed alike, more than runtime.max_failed_share="
        f"{ctx.runtime.max_failed_share:g}: {reason}, such as {_example(operator, planned, written, reason)}; none of "
        "them is written down. Mend what is behind it, and the same command continues; if these clips are broken "
        "indeed, raise runtime.max_failed_share (1 never stops)"
    )


def _quarantined(rows: pa.Table, stage: str) -> dict[str, int]:
    """How many rows the stage itself quarantined, by reason."""
    own = pc.and_(pc.equal(rows["status"], Status.QUARANTINED), pc.equal(rows["reason_stage"], stage))
    found = pc.value_counts(rows["reason"].filter(own.fill_null(False)))
    return {one["values"]: one["counts"] for one in found.to_pylist()}


def _example(operator: Operator, planned: pa.Table, written: ds.Dataset, reason: str) -> str:
    """The first row that failed so, by its id: its URI, where there is one, and what happened."""
    own = (pc.field("reason") == reason) & (pc.field("reason_stage") == operator.name)
    named = [name for name in ("uri",) if name in operator.schema.names]
    rows = written.to_table(columns=[operator.key, "detail", *named], filter=own).sort_by(operator.key)
    row = rows.slice(0, 1).to_pylist()[0]
    uri = row.get("uri")
    if uri is None and "uri" in planned.column_names:
        uri = planned.filter(pc.equal(planned[operator.key], row[operator.key]))["uri"][0].as_py()
    detail = " ".join((row["detail"] or "").split())
    return detail if uri is None or uri in detail else f"{uri}: {detail}"
