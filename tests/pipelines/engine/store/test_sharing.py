"""Runners that share a store: each stage is computed once, and who dies is replaced."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.engine.stage import Pipeline
from pipelines.engine.store import lease as leases
from pipelines.engine.store.lease import try_acquire
from pipelines.engine.store.objects import LocalObjects
from pipelines.engine.store.store import Store
from tests.pipelines.engine.store.operations import go, manifest_of
from tests.pipelines.toy import stage

RUNNER = """
import json, sys
from pipelines.engine.store.open_store import open_store
from tests.pipelines.engine.store.operations import go, known_code
from tests.pipelines.engine.store.test_sharing import pipeline
known_code()
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(go(open_store(sys.argv[1], sys.argv[2]), pipeline(float(sys.argv[3])))))
"""


def pipeline(sleep: float) -> Pipeline:
    """a -> (b, c) -> d, that takes its time."""
    return Pipeline(
        "shared",
        (
            stage("a", sleep=sleep),
            stage("b", inputs=("a",), sleep=sleep),
            stage("c", inputs=("a",), sleep=sleep),
            stage("d", inputs=("b", "c"), sleep=sleep),
        ),
    )


def start(store: str, copies: Sequence[Path], sleep: float) -> list[subprocess.Popen[str]]:
    """Runners that all begin at once, one for each working copy; a store on a disk is its own."""
    runners = [
        subprocess.Popen(
            [sys.executable, "-c", RUNNER, store, str(copy), str(sleep)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for copy in copies
    ]
    for runner in runners:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "ready\n"
    for runner in runners:
        assert runner.stdin is not None
        runner.stdin.write("\n")
        runner.stdin.flush()
    return runners


def digests(runner: subprocess.Popen[str]) -> dict[str, str]:
    """Of a runner that has ended well."""
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 0
    found: dict[str, str] = json.loads(out)
    return found


def calls(root: Path) -> list[str]:
    """Stages by how often they were computed to their end."""
    found = [line for path in root.glob("stages/*/calls.txt") for line in path.read_text().splitlines()]
    return sorted(line.split()[0] for line in found)


def test_three_cold_runners_compute_each_stage_once(tmp_path: Path) -> None:
    found = [digests(runner) for runner in start(str(tmp_path), [tmp_path] * 3, 0.3)]
    assert found[0].keys() == set("abcd")
    assert found[0] == found[1] == found[2]
    assert calls(tmp_path) == ["a", "b", "c", "d"]
    assert len(list(tmp_path.glob("stages/*/*/a-*"))) == 4
    assert not list(tmp_path.glob("stages/*/*/LEASE.json"))


def test_when_one_is_killed_another_takes_over(tmp_path: Path) -> None:
    runners = {runner.pid: runner for runner in start(str(tmp_path), [tmp_path] * 3, 1.5)}
    while not (held := list(tmp_path.glob("stages/a/*/LEASE.json"))):
        time.sleep(0.02)
    time.sleep(0.3)
    killed = runners.pop(json.loads(held[0].read_text())["pid"])
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    first, second = (digests(runner) for runner in runners.values())
    assert first == second == go(Store(tmp_path), pipeline(1.5))
    assert calls(tmp_path) == ["a", "b", "c", "d"]


def forge(store: Store, fingerprint: str, age_s: float) -> Path:
    """A lease of stage a that another host holds."""
    directory = store.directory("a", fingerprint)
    lease = try_acquire(LocalObjects(directory))
    assert isinstance(lease, leases.Lease)
    record = directory / "LEASE.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"host": "elsewhere", "pid": 1}))
    os.utime(record, (time.time() - age_s,) * 2)
    return record


@pytest.mark.parametrize("skew_s", [0.0, -3600.0, 3600.0])
def test_another_host_is_waited_for_while_its_heart_beats_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    go(Store(tmp_path / "whole"), pipeline(0.0))
    fingerprint = manifest_of(Store(tmp_path / "whole"), "a").fingerprint
    store = Store(tmp_path / "store")
    record = forge(store, fingerprint, 1.0)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + skew_s)
    done = threading.Thread(target=go, args=(store, pipeline(0.0)))
    done.start()
    done.join(1.5)
    assert done.is_alive()
    assert not list(store.root.glob("stages/a/*/a-*"))
    stale = clock() - leases.EXPIRY_S - 1
    os.utime(record, (stale, stale))
    done.join(20)
    assert not done.is_alive()
    assert calls(store.root) == ["a", "b", "c", "d"]


def test_a_heartbeat_shows_in_the_record(tmp_path: Path) -> None:
    lease = try_acquire(LocalObjects(tmp_path / "x"))
    assert isinstance(lease, leases.Lease)
    assert lease.holder.host == socket.gethostname()
    os.utime(tmp_path / "x" / "LEASE.json", (0, 0))
    lease.refresh()
    found = leases.read_holder(LocalObjects(tmp_path / "x"))
    assert found == lease.holder
    assert abs(found.heartbeat - time.time()) < 60
