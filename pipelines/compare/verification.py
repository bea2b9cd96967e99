"""Integrity of a run's outputs: what `lumina verify` found, and the repair of what is damaged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import StageEntry
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


@dataclass
class Findings:
    """What is wrong with a run, or with one of its stages, while it is looked at."""

    store: Store
    name: str = ""
    """Of the stage; empty for the run itself."""
    problems: list[Problem] = field(default_factory=list)
    not_checked: list[Unchecked] = field(default_factory=list)

    def add(self, what: What, path: Path, detail: str) -> None:
        """Something is wrong with a file of the store."""
        self.problems.append(Problem(what, path.relative_to(self.store.root).as_posix(), detail))

    def skip(self, what: str) -> None:
        """Something was not looked at."""
        self.not_checked.append(Unchecked(self.name, what))


@dataclass(kw_only=True)
class StageFindings(Findings):
    """The same of a stage."""

    fingerprint: str
    entry: StageEntry
    """What the run recorded of it."""
    manifest: Manifest | None = None
    """Its record; None if it cannot be read."""
    sealed: bool = False
    """Whether the record has the checksum of what it says."""

    @property
    def record(self) -> Path:
        """The file with its record."""
        return self.store.directory(self.name, self.fingerprint) / "MANIFEST.json"

    def blame(self, what: What, detail: str) -> None:
        """Its record says so, and no other file."""
        self.add(what, self.record, detail)

    @property
    def out(self) -> Path:
        """Where the output lies; if the record is of another fingerprint, where it should lie."""
        return self.record.parent / (self.manifest.attempt if self.manifest else "")

    def place(self, path: str) -> str:
        """A file's path relative to the store, from the one relative to the output."""
        return (self.out / path).relative_to(self.store.root).as_posix()

    def text(self, error: object, here: Path) -> str:
        """An error about files in the directory `here`, by their names in the store."""
        return str(error).replace(str(here), self.store.name(self.out))


def repair(store: Store, found: Verification) -> Verification:
    """Set the records of damaged stages aside, so that the next run computes them; returns what was found, with them.

    Raises:
        StoreError: somebody works on such a stage, or the store cannot be written.
    """
    entries = store.get_run(found.run).stages
    damaged = [stage.name for stage in found.stages if stage.repairable]
    for name in damaged:
        if (fingerprint := entries[name].fingerprint) is not None:
            store.repair(name, fingerprint)
    return replace(found, repaired=tuple(damaged))
