"""What can be put right of what `lumina verify` found: damaged outputs are computed again by the next run."""

from __future__ import annotations

from dataclasses import replace

from pipelines.engine.store.store import Store
from pipelines.verify.verification import CheckedStage, Verification

_COMPUTED_AGAIN = ("missing", "damaged", "edited", "counts")
"""Computing a stage again changes nothing about its inputs, other people's files, or MLflow."""


def can_mend(stage: CheckedStage) -> bool:
    """Whether computing the stage again puts something right."""
    return any(problem.what in _COMPUTED_AGAIN for problem in stage.problems)


def mend(store: Store, found: Verification) -> Verification:
    """Set aside the records of damaged stages; returns what was found, with their names.

    Raises:
        StoreError: somebody works on such a stage, or the store cannot be written.
    """
    entries = store.get_run(found.run).stages
    damaged = [stage.name for stage in found.stages if can_mend(stage)]
    for name in damaged:
        if (fingerprint := entries[name].fingerprint) is not None:
            store.set_aside(name, fingerprint)
    return replace(found, set_aside=tuple(damaged))
