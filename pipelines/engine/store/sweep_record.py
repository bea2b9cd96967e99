"""Record of a sweep below the directory of a store: `sweeps/<name>.json`, which runs it is of and how they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.engine.store.checksum import is_whole, seal
from pipelines.engine.store.lease import RECORD
from pipelines.engine.store.objects import Objects
from pipelines.engine.store.typed import Name, Number, Text, Whole, checked, is_name, parse, plain
from pipelines.errors import StoreError
from pipelines.secrets import scrubbed

RunState = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One arm with one seed."""

    arm: Text
    seed: Whole | None = None
    """Of training; None where the config's own are taken."""
    changes: tuple[Text, ...] = ()
    """What the arm changes of the config."""
    name: Name
    """Of the run; `latest/<name>` in the store."""
    state: RunState = "waiting"
    run: Name | None = None
    """Id of the run that ended last, well or not."""
    error: Text = ""
    """Why it failed."""
    seconds: Number = 0.0
    """By the clock, of its last process."""

    @property
    def title(self) -> str:
        """The arm, with its seed where there is one."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """A sweep as it stands."""

    schema: Literal["lumina.sweep/1"] = "lumina.sweep/1"
    name: Name
    config: Text
    """Name or path."""
    command: Text
    """Goes on with it."""
    started: Text
    """ISO 8601, of its last process."""
    until: Text | None = None
    computations: Whole = 0
    """Of stages, in all runs."""
    unshared: Whole = 0
    """How many they would be if each run had a store of its own."""
    runs: tuple[ArmRun, ...]
    """Arm by arm."""
    comparison: Mapping[Text, Any] | None = None
    """See `pipelines.reports.sweep`; None until two arms are done."""

    def to_json(self) -> str:
        """Indented JSON text without secrets, with a checksum of itself."""
        return seal(json.dumps(scrubbed(plain(self)), indent=1))

    def put(self, objects: Objects) -> None:
        """Write it. Raises StoreError if it cannot be."""
        objects.put(sweep_key(self.name), self.to_json(), sync=True)

    @classmethod
    def load(cls, objects: Objects, name: str) -> SweepRecord:
        """The record of a sweep.

        Raises:
            StoreError: it is not there, damaged, or was edited.
        """
        where = objects.name(sweep_key(name))
        try:
            found = objects.read(sweep_key(name))
            if found is None:
                raise StoreError(f"{where} is not there")
            if not is_whole(found.text):
                raise ValueError("its checksum is not that of what it says")
            return checked(cls, parse(found.text))
        except ValueError as error:
            raise StoreError(f"{where} is damaged ({error}): restore it, or run the sweep again") from error


def sweep_key(name: str) -> str:
    """Of the record of a sweep, by its name."""
    return f"sweeps/{name}.json"


def page_key(name: str) -> str:
    """Of the page of a sweep, by its name."""
    return f"sweeps/{name}.html"


def lease_key(name: str) -> str:
    """Of the lease that the process has which brings a sweep up."""
    return f"sweeps/{name}/{RECORD}"


def sweep_names(objects: Objects) -> list[str]:
    """Of all sweeps that have a record, sorted."""
    keys = (entry.key.removeprefix("sweeps/") for entry in objects.entries("sweeps"))
    return sorted(
        key.removesuffix(".json") for key in keys if is_name(key) and key.endswith(".json") and not key.startswith(".")
    )
