"""Rows that fail alike: a systematic fault shows as one reason for a large share of a stage's rows.

Single clips are broken each in its own way. Where many leave for one reason, the machine or a setting is the likelier
cause; written down, the rows would stay broken after it is mended.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from curation.operator import FAILED
from jobs.parts import Part
from lumina.faults import MachineError

if TYPE_CHECKING:
    from jobs.context import JobContext

LEAST = 20
"""Fewer rows are no ground for suspicion."""


def check_failed_alike(ctx: JobContext, parts: Sequence[Part]) -> None:
    """MachineError if more than `runtime.max_failed_share` of the rows that came in well are quarantined alike.

    Parts with such rows, and what the operator keeps of rows that failed, are then taken from the scratch directory, so
    that the next run computes them again.

    Args:
        ctx: of the stage.
        parts: its computed rows.
    """
    came_well = sum(part.came_well for part in parts)
    reasons = sorted({reason for part in parts for reason in part.failed})
    failed = {reason: [part.failed[reason] for part in parts if reason in part.failed] for reason in reasons}
    numbers = {reason: sum(one.rows for one in each) for reason, each in failed.items()}
    reason, count = max(numbers.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if count < LEAST or count <= ctx.runtime.max_failed_share * came_well:
        return
    for part in parts:
        if reason in part.failed:
            part.record_path(ctx.work / "parts").unlink(missing_ok=True)
    shutil.rmtree(ctx.work / FAILED, ignore_errors=True)
    example = min(failed[reason], key=lambda one: one.key).detail
    raise MachineError(
        f"{count} of {came_well} rows failed alike, more than runtime.max_failed_share="
        f"{ctx.runtime.max_failed_share:g}: {reason}, such as {example}; none of "
        "them is written down. Mend what is behind it, and the same command continues; if these clips are broken "
        "indeed, raise runtime.max_failed_share (1 never stops)"
    )
