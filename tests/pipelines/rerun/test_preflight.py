"""What is looked at before anything starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.config import load_config
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.rerun.preflight import (
    check_environment,
    check_plan,
    check_record,
    check_workers,
    read_plan,
    stops,
)
from pipelines.run_lock import Code, Environment, Lock, portable

MACHINE = Environment("3.11.7", "Linux", 2, (), {"torch": "2.13.0", "ray": "2.60.0"})
STAGES = {name: StageEntry(fingerprint=name, digest="d") for name in ("probe", "motion", "tag")}


def planned(*reasons: tuple[str, str, str]) -> dict[str, Any]:
    """A plan in which these stages have another fingerprint, state and reason."""
    changed = {name: (state, reason) for name, state, reason in reasons}
    return {
        "stages": [
            {"name": name, "fingerprint": "other" if name in changed else name,
             "state": changed.get(name, ("cached", ""))[0], "reason": changed.get(name, ("", ""))[1]}
            for name in STAGES
        ]
    }  # fmt: skip


def states(checks: Any) -> dict[str, str]:
    return {check.what: check.state for check in checks}


def test_only_a_complete_run_can_be_compared_with() -> None:
    record = RunRecord(run="r", name="x", started="then", ok=True, stages=STAGES)
    assert check_record(record).state == "ok"
    check = check_record(
        replace(record, ok=False, stages={**STAGES, "train@1": StageEntry(fingerprint=None, digest=None)})
    )
    assert check.state == "missing"
    assert "not complete, first train@1" in check.detail


def test_the_environment_informs_and_does_not_stop() -> None:
    assert set(states(check_environment(MACHINE, MACHINE)).values()) == {"ok"}
    other = Environment("3.12.1", "Linux", 2, ("H200",), {"torch": "2.14.0", "new": "1"})
    found = list(check_environment(MACHINE, other))
    assert states(found) == {"packages": "differs", "machine": "differs"}
    assert found[0].detail == "new (absent) -> 1, ray 2.60.0 -> (absent), torch 2.13.0 -> 2.14.0"
    assert found[1].detail == "python 3.11.7 -> 3.12.1, gpus no GPU -> H200"


def test_another_number_of_workers_is_said() -> None:
    lock = Lock("", portable(load_config("demo")), Code(None), MACHINE)
    assert check_workers(lock, ()).state == "ok"
    assert "2 -> 1" in check_workers(lock, ("runtime.train_workers=1",)).detail


@pytest.mark.parametrize(
    ("reason", "here", "drift", "expected"),
    [
        ((), False, False, {"inputs": "ok", "recipes": "ok"}),
        (("motion", "run", "weights.unimatch a -> b"), True, True, {"inputs": "missing", "recipes": "ok"}),
        (("probe", "run", "facts.media a -> b"), False, False, {"inputs": "missing", "recipes": "ok"}),
        (("probe", "blocked", "no file 'x.csv'"), False, False, {"inputs": "missing", "recipes": "ok"}),
        (("motion", "run", "depends.torch 2.13 -> 2.14"), False, False, {"inputs": "ok", "recipes": "missing"}),
        (("motion", "run", "depends.torch 2.13 -> 2.14"), False, True, {"inputs": "ok", "recipes": "differs"}),
        (("tag", "run", "code curation.sources"), False, False, {"inputs": "ok", "recipes": "missing"}),
        (("tag", "run", "code curation.sources"), True, False, {"inputs": "ok", "recipes": "differs"}),
    ],
)
def test_what_a_plan_tells(reason: Any, here: bool, drift: bool, expected: dict[str, str]) -> None:
    checks = list(check_plan(planned(*([reason] if reason else [])), STAGES, here, drift))
    assert states(checks) == expected
    assert bool(stops(checks)) == ("missing" in expected.values())


def test_what_is_no_plan_is_none() -> None:
    assert read_plan("error: no such file") is None
    assert read_plan("[]") is None
    assert read_plan('{"stages": []}') == {"stages": []}
