"""What `lumina verify` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

What = Literal["missing", "damaged", "edited", "unexpected", "lineage", "counts", "mlflow"]
"""`edited`: a record contradicts itself or another one."""


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
    set_aside: tuple[str, ...] = ()
    """Stages that the next run computes again; see `pipelines.verify.mend`."""

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
        return {"exit": self.exit_code, **asdict(self)}
