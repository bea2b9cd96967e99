"""Who holds a lease, and what becomes of a runner that has lost its own."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store import lease as leases
from pipelines.engine.store.lease import Holder, read_holder, this_machine, try_acquire
from pipelines.engine.store.objects import LocalObjects
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, identifier, stage


def put(directory: Path, holder: Holder, age_s: float = 0.0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "LEASE.json").write_text(json.dumps(asdict(holder)))
    os.utime(directory / "LEASE.json", (time.time() - age_s,) * 2)


def test_the_pid_of_another_container_says_nothing(tmp_path: Path) -> None:
    here = Holder.me()
    boot, namespace = this_machine().split(" ", 1)
    assert namespace == os.readlink("/proc/self/ns/pid")
    assert here.is_here
    for machine in (f"{boot} pid:[1]", f"{'0' * 36} {namespace}", ""):
        # It beats, although no process here has its number; and it is dead when it does not, although one has.
        other = replace(here, machine=machine, pid=2**22 - 1)
        put(tmp_path / "x", other, 1.0)
        assert try_acquire(LocalObjects(tmp_path / "x")) == other
        put(tmp_path / "x", replace(here, machine=machine), leases.EXPIRY_S + 1)
        assert isinstance(try_acquire(LocalObjects(tmp_path / "x")), leases.Lease)
    put(tmp_path / "x", replace(here, pid=2**22 - 1))
    assert isinstance(try_acquire(LocalObjects(tmp_path / "x")), leases.Lease)


def test_a_lease_of_a_machine_that_is_gone_is_waited_for_and_one_of_a_machine_at_work_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.1)
    objects, elsewhere = LocalObjects(tmp_path), replace(Holder.me(), host="elsewhere")
    put(tmp_path, elsewhere, leases.EXPIRY_S - 0.5)
    with leases.holding(objects, leases.RECORD) as other:
        assert other is None
    put(tmp_path, elsewhere, 1.0)
    threading.Timer(0.2, os.utime, [tmp_path / leases.RECORD]).start()
    with leases.holding(objects, leases.RECORD) as other:
        assert other == elsewhere
    assert read_holder(objects) == elsewhere


@pytest.mark.parametrize("text", ["[]", "{}", '{"owner": 1}', '{"host": {}}', "[" * 5000])
def test_a_lease_of_another_shape_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "LEASE.json").write_text(text)
    assert read_holder(LocalObjects(tmp_path)) is None
    assert isinstance(try_acquire(LocalObjects(tmp_path)), leases.Lease)


def taken(path: Path) -> None:
    other = replace(Holder.me(), owner="other", host="elsewhere")
    path.write_text(json.dumps(asdict(other)))


@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (taken, r"process \d+ on elsewhere has taken the lease .*LEASE.json over, and computes the same"),
        (Path.unlink, "LEASE.json is gone or was overwritten, so another runner may compute the same"),
        (lambda path: path.write_text("{"), "LEASE.json is gone or was overwritten"),
    ],
)
def test_a_runner_that_has_lost_its_lease_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], object], said: str
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.05)
    pipeline = Pipeline("line", (stage("a", sleep=3.0), stage("b", inputs=("a",))))

    def steal() -> None:
        while not (found := list(tmp_path.glob("stages/a/*/LEASE.json"))):
            time.sleep(0.01)
        time.sleep(0.2)
        lose(found[0])

    thief = threading.Thread(target=steal)
    thief.start()
    summary = run(pipeline, Store(tmp_path), EXECUTE, identifier=identifier())
    thief.join()
    assert {name: one.state for name, one in summary.outcomes.items()} == {"a": "failed", "b": "blocked"}
    assert not summary.ok
    assert re.search(said, summary.outcomes["a"].error)
    assert summary.outcomes["a"].error.endswith("; this run has stopped, and the same command goes on once nobody "
                                                "works on a")  # fmt: skip
    time.sleep(0.2)
    assert not list(tmp_path.glob("stages/*/*/MANIFEST.json"))


def test_a_runner_on_a_bucket_stops_too(s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.05)
    store = open_store(s3_store, tmp_path)

    def steal() -> None:
        while not (found := [one for one in store.objects.entries("stages") if one.key.endswith("LEASE.json")]):
            time.sleep(0.02)
        time.sleep(0.3)
        other = replace(Holder.me(), owner="other", host="elsewhere")
        store.objects.put(found[0].key, json.dumps(asdict(other)))

    thief = threading.Thread(target=steal)
    thief.start()
    pipeline = Pipeline("line", (stage("a", sleep=4.0),))
    summary = run(pipeline, store, EXECUTE, identifier=identifier())
    thief.join()
    assert summary.outcomes["a"].state == "failed"
    said = summary.outcomes["a"].error
    assert f"process {os.getpid()} on elsewhere has taken the lease {store.objects.name('stages/a/')}" in said
