"""Checks before a recorded run is computed again: record, packages, machine, inputs, recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.run_lock import Environment, Lock

_INPUTS = ("facts", "files", "weights")
"""Parts of a recipe that come from outside the store."""
_NAMED = 3


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    what: str
    state: Literal["ok", "differs", "missing"]
    """`differs` informs, `missing` stops the rerun."""
    detail: str


def stops(checks: Sequence[Check]) -> list[Check]:
    """Those for which nothing is started."""
    return [check for check in checks if check.state == "missing"]


def check_record(record: RunRecord) -> Check:
    """Whether the recorded run came to its end."""
    open_stages = [name for name, entry in record.stages.items() if entry.digest is None]
    if record.ok and not open_stages:
        return Check("run", "ok", f"{record.run}, {len(record.stages)} stages, started {record.started}")
    first = f", first {open_stages[0]}" if open_stages else ""
    return Check("run", "missing", f"{record.run} is not complete{first}: there is nothing to compare with")


def check_environment(then: Environment, now: Environment) -> Iterator[Check]:
    """Python, packages and machine; none of them stops a rerun by itself."""
    changed = [
        f"{name} {then.packages.get(name, '(absent)')} -> {now.packages.get(name, '(absent)')}"
        for name in sorted(then.packages.keys() | now.packages.keys())
        if then.packages.get(name) != now.packages.get(name)
    ]
    yield _same("packages", f"{len(then.packages)}, the same versions", changed)
    facts = [(name, getattr(then, name), getattr(now, name)) for name in ("python", "platform", "cpus", "gpus")]
    differ = [f"{name} {_plain(old)} -> {_plain(new)}" for name, old, new in facts if old != new]
    yield _same("machine", f"{now.platform}, Python {now.python}, {now.cpus} CPUs, {_plain(now.gpus)}", differ)


def _same(what: str, text: str, differ: Sequence[str]) -> Check:
    if not differ:
        return Check(what, "ok", text)
    more = f" and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
    return Check(what, "differs", ", ".join(differ[:_NAMED]) + more)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " + ".join(value) or "no GPU"
    return str(value)


def check_workers(lock: Lock, overrides: Sequence[str]) -> Check:
    """The world size that training had, and will have."""
    asked = [value.partition("=")[2] for value in overrides if value.startswith("runtime.train_workers=")]
    now = int(asked[-1]) if asked and asked[-1].strip().isdigit() else lock.workers
    if now == lock.workers:
        return Check("workers", "ok", f"{now} in training")
    return Check("workers", "differs", f"{lock.workers} -> {now} in training: last bits will differ")


def check_plan(
    planned: Mapping[str, Any], stages: Mapping[str, StageEntry], here: bool, allow_env_drift: bool
) -> Iterator[Check]:
    """Whether code, inputs and packages give the recorded recipes, as far as a plan can tell.

    Args:
        planned: what `lumina plan --json` says with the code that will run, on the recorded run's store.
        stages: of the recorded run.
        here: whether other code is meant.
        allow_env_drift: whether other versions of the packages that are in recipes are accepted.
    """
    other = {
        one["name"]: str(one["reason"])
        for one in planned["stages"]
        if one["name"] in stages and one["fingerprint"] not in (None, stages[one["name"]].fingerprint)
    }
    blocked = {one["name"]: str(one["reason"]) for one in planned["stages"] if one["state"] == "blocked"}
    gone = sorted(stages.keys() - {one["name"] for one in planned["stages"]})
    inputs = {name: why for name, why in other.items() if why.startswith(_INPUTS)} | blocked
    packages = {name: why for name, why in other.items() if why.startswith("depends")}
    recipes = {name: why for name, why in other.items() if name not in inputs and name not in packages}
    recipes |= dict.fromkeys(gone, "is no stage of this code")
    if inputs:
        yield Check("inputs", "missing", _first(inputs))
    else:
        yield Check("inputs", "ok", "clips, files and weights are those that were recorded")
    if packages and not allow_env_drift:
        yield Check("recipes", "missing", f"{_first(packages)}; install the recorded versions, or --allow-env-drift")
    elif recipes and not here:
        yield Check("recipes", "missing", f"the recorded code gives another recipe: {_first(recipes)}")
    elif packages or recipes:
        yield Check("recipes", "differs", _first(packages | recipes))
    else:
        known = sum(bool(one["fingerprint"]) for one in planned["stages"])
        yield Check("recipes", "ok", f"{known} of {len(stages)} are known before anything runs, and are as recorded")


def _first(reasons: Mapping[str, str]) -> str:
    name, why = next(iter(reasons.items()))
    return f"{name}: {why}" + (f" (and {len(reasons) - 1} more stages)" if len(reasons) > 1 else "")


def read_plan(text: str) -> Mapping[str, Any] | None:
    """The plan in what a command printed; None if there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "stages" in found else None
