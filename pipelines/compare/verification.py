"""Integrity of a run's outputs: what `lumina verify` found, and the repair of what is damaged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipelines.engine.store.store import Store

What = Literal["missing", "damaged", "edited", "unexpected", "lineage", "counts", "mlflow"]
"""`edited`: a record contradicts itself or another one."""
_COMPUTED_AGAIN = ("missing", "damaged", "edited", "counts")
"""Computing a stage again changes nothing about its inputs, other people's files, or MLflow."""


@dataclass(frozen=True)
class Row:
    """One row of a row output."""

    row: int
    """Place in its file, from 0."""
    id: str
    """Value of the column that names rows, e.g. a `clip_id`."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    what: What
    path: str
    """The file, relative to the store; what is no file's fault names the record that says so."""
    detail: str
    rows: tuple[Row, ...] = ()
    """The rows that are lost or changed, where they can be told."""


@dataclass(frozen=True)
class Unchecked:
    """Something that was not looked at."""

    stage: str
    """Empty for what is not of one stage."""
    what: str
    """What, and why."""


@dataclass(frozen=True)
class CheckedStage:
    """What was found of one stage."""

    name: str
    kind: str
    """`rows`, `checkpoint`, `files`; empty without a readable record."""
    files: int
    bytes: int
    """Recorded number and size of its files."""
    problems: tuple[Problem, ...]
    drift: str = ""
    """Which code of the run differs from that which computed the output; empty for none."""

    @property
    def repairable(self) -> bool:
        """Whether computing the stage again puts something right."""
        return any(problem.what in _COMPUTED_AGAIN for problem in self.problems)


@dataclass(frozen=True)
class Verification:
    """What was found of a run."""

    run: str
    name: str
    started: str
    deep: bool
    rows: bool
    stages: tuple[CheckedStage, ...]
    problems: tuple[Problem, ...]
    """Of the run itself, not of one stage."""
    not_checked: tuple[Unchecked, ...]
    seconds: float
    repaired: tuple[str, ...] = ()
    """Stages that the next run computes again."""

    @property
    def found(self) -> tuple[Problem, ...]:
        """All problems."""
        return (*self.problems, *(problem for stage in self.stages for problem in stage.problems))

    @property
    def exit_code(self) -> int:
        """0 when nothing is wrong, else 4."""
        return 4 if self.found else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        plain = asdict(self)
        return {"exit": self.exit_code, **plain, "set_aside": plain.pop("repaired")}


def repair(store: Store, found: Verification) -> Verification:
    """Set the records of damaged stages aside, so that the next run computes them; returns what was found, with them.

    Raises:
        StoreError: somebody works on such a stage, or the store cannot be written.
    """
    entries = store.get_run(found.run).stages
    damaged = [stage.name for stage in found.stages if stage.repairable]
    for name in damaged:
        if (fingerprint := entries[name].fingerprint) is not None:
            store.set_aside(name, fingerprint)
    return replace(found, repaired=tuple(damaged))
