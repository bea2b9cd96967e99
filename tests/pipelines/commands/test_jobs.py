"""`lumina submit` and `lumina jobs` on a real cluster of two nodes, over HTTP, while things are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from jobs.parts import rows_written
from lumina.video import write_h264
from tests.ray_nodes import Nodes, digests, kill_tree, lumina, ray_nodes

pytestmark = pytest.mark.ray
SMALL = ("data.shapes.clips={synthetic: 6, handheld: 6, web: 6}", "data.shapes.images={synthetic: 2}")
OVERRIDES = [part for value in SMALL for part in ("-o", value)]
LATEST_S = 240


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """The head, for drivers, and a node that does the work; both may do some of it."""
    with ray_nodes(1, 1, resources={"driver": 1}, RAY_JOB_STOP_WAIT_TIME_S="60") as running:
        yield running


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The digests of a run on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    done = output(*lumina(folder, "run", "demo", "--until", "motion", "--store", str(folder / "store"), *OVERRIDES))
    assert done.returncode == 0, done.stdout + done.stderr
    return digests(folder / "store")


def output(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def demo(nodes: Nodes, folder: Path, name: str, *more: str) -> list[str]:
    """`lumina submit` of the demo's first stages."""
    command = lumina(folder, "submit", "demo", "--address", nodes.dashboard, "--name", name, "--resource", "driver=1")
    return [*command, "--until", "motion", "--store", str(folder / "store"), *OVERRIDES, *more]


def start(folder: Path, terminal: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Type a command in an empty folder; what it says goes to a file."""
    (folder / terminal).mkdir()
    with (folder / f"{terminal}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder / terminal, stdout=log, stderr=log, start_new_session=True)


def wait(reached: Callable[[], bool], terminal: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + LATEST_S
    while not reached():
        assert terminal.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def rows(store: Path) -> int:
    """Rows of the stage `motion` that are on the disk."""
    return sum(rows_written(parts) for parts in store.glob("stages/motion/*/work/parts"))


def test_a_stopped_run_leaves_a_store_that_the_next_attempt_goes_on_with(
    nodes: Nodes, expected: Mapping[str, str], tmp_path: Path
) -> None:
    store, where = tmp_path / "store", ("--address", nodes.dashboard)
    terminal = start(tmp_path, "first", demo(nodes, tmp_path, "stopped"))
    wait(lambda: bool(digests(store)), terminal, tmp_path / "first.log")
    ended = output(*lumina(tmp_path, "jobs", "stop", "stopped", *where))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "STOPPED" in ended.stdout
    assert terminal.wait(LATEST_S) == 1
    assert "the same command continues" in (tmp_path / "first.log").read_text()
    left = digests(store)
    assert left == {stage: digest for stage, digest in expected.items() if stage in left}
    assert "motion" not in left
    checked = output(*lumina(tmp_path, "verify", "--store", str(store)))
    assert "damaged" not in checked.stdout, checked.stdout
    assert not list(store.glob("stages/*/*/LEASE.json"))

    both = [start(tmp_path, name, demo(nodes, tmp_path, "stopped")) for name in ("second", "third")]
    assert [one.wait(LATEST_S) for one in both] == [0, 0]
    said = [(tmp_path / f"{name}.log").read_text() for name in ("second", "third")]
    actions = [re.findall(r"-(a\d) (submitted|is at it already)", text) for text in said]
    assert sorted(actions) == [[("a2", "is at it already")], [("a2", "submitted")]]
    assert all(f"4 stages done, {len(left)} of them cached" in text for text in said), said[0]
    assert digests(store) == expected


def test_after_a_failure_the_same_command_starts_the_next_attempt(nodes: Nodes, tmp_path: Path) -> None:
    manifest, where = tmp_path / "clips.csv", ("--address", nodes.dashboard)
    command = lumina(tmp_path, "submit", "folder", *where, "--name", "failing", "--until", "probe")
    command += ["--resource", "driver=1", "--store", str(tmp_path / "store"), "-o", f"data.manifest={manifest}"]
    first = output(*command)
    assert first.returncode == 1
    assert "FAILED" in first.stdout
    assert str(manifest) in first.stdout, first.stdout
    write_h264(tmp_path / "a.mp4", np.zeros((16, 64, 64, 3), np.uint8), 8)
    manifest.write_text("video,caption,source\na.mp4,A black clip.,web\n")
    second = output(*command, "--recompute", "probe")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "-a2 submitted" in second.stdout
    third = output(*command, "--recompute", "all")
    assert third.returncode == 0, third.stdout + third.stderr
    assert "-a2 has done it" in third.stdout
    known = json.loads(output(*lumina(tmp_path, "jobs", "status", "failing", *where, "--json")).stdout)
    assert known["id"].endswith("-a2")
    assert known["metadata"]["recompute"] == "probe"


def test_a_run_outlives_its_terminal_and_a_node_and_changes_no_digest(
    nodes: Nodes, expected: Mapping[str, str], tmp_path: Path
) -> None:
    store, where = tmp_path / "store", ("--address", nodes.dashboard)
    terminal = start(tmp_path, "terminal", demo(nodes, tmp_path, "outlives"))
    wait(lambda: bool(list(store.glob("stages/*/*"))), terminal, tmp_path / "terminal.log")
    os.killpg(terminal.pid, signal.SIGKILL)
    terminal.wait()
    follower = start(tmp_path, "follower", lumina(tmp_path, "jobs", "logs", "outlives", *where))
    try:
        wait(lambda: rows(store) > 0 and bool(nodes.running("ray::MapBatches")), follower, tmp_path / "follower.log")
        assert "motion" not in digests(store)
        nodes.lose(nodes.running("ray::MapBatches")[0])
        nodes.join(1)
        assert follower.wait(LATEST_S) == 0, (tmp_path / "follower.log").read_text()
    finally:
        kill_tree(follower)
    assert "4 stages done" in (tmp_path / "follower.log").read_text()
    assert digests(store) == expected
    again = output(*demo(nodes, tmp_path, "outlives"))
    assert again.returncode == 0, again.stderr
    assert "-a1 has done it" in again.stdout
    listed = output(*lumina(tmp_path, "jobs", "list", *where, "--json"))
    assert "outlives" in {job["metadata"]["run"] for job in json.loads(listed.stdout)}
