"""What a run's cluster shows to others: nothing to the network, and no more than a page to this machine's users."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.tokens import FILE
from tests.ray_nodes import ROOT, kill_tree

pytestmark = pytest.mark.ray

RUN = """
import json, os, sys, time
from jobs import cluster
from jobs.runtime import RuntimeConfig
cluster.ensure(RuntimeConfig(num_cpus=2))
import ray
ray.get(ray.remote(lambda: 0).remote())
logs = cluster.logs(RuntimeConfig()).resolve()
# The agent listens last, and says so.
while not list(logs.parent.glob("dashboard_agent_listen_port_*")):
    time.sleep(0.1)
print(json.dumps({"address": ray.get_runtime_context().gcs_address, "logs": str(logs), **os.environ}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""

STRANGER = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray gives up sooner, and does look on the loopback."""


@dataclass(frozen=True)
class Run:
    """A cluster as a run starts it, and what a stranger was told."""

    said: dict[str, str]
    """Folder of the logs, and the environment of the driver."""
    token: str
    command_lines: list[str]
    ports: list[tuple[str, int]]
    stranger: dict[str, Any]
    mark: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    driver = subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        assert driver.stdin is not None
        assert driver.stdout is not None
        said = json.loads(driver.stdout.readline())
        root = psutil.Process(driver.pid)
        listening, command_lines = [], []
        for process in (root, *root.children(recursive=True)):
            # A worker that is idle may end at any time.
            with contextlib.suppress(psutil.NoSuchProcess):
                command_lines.append(" ".join(process.cmdline()))
                listening += [one for one in process.net_connections("tcp") if one.status == "LISTEN"]
        ports = sorted({(one.laddr.ip.removeprefix("::ffff:"), one.laddr.port) for one in listening})
        mark = tmp_path_factory.mktemp("run") / "mark"
        secret = [said.get(FILE, "/"), said["logs"]]
        asked = {"ports": ports, "mark": str(mark), "address": said["address"], "secret": secret}
        told = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name("stranger.py")), json.dumps(asked)],
            capture_output=True, text=True, timeout=120, env=STRANGER,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        yield Run(said, Path(said[FILE]).read_text(), command_lines, ports, json.loads(told.stdout), mark)
        driver.stdin.close()
        driver.wait(60)
    finally:
        kill_tree(driver)


def test_no_network_reaches_a_port(run: Run) -> None:
    assert len(run.ports) > 8
    assert [port for port in run.ports if not ipaddress.ip_address(port[0]).is_loopback] == []


def test_whoever_has_no_token_is_refused_at_every_port(run: Run) -> None:
    assert run.stranger["joined"] == "ConnectionError"
    web = {(port, status) for port, _, status in run.stranger["http"] if status.isdigit()}
    # Two ports have nothing but figures of Ray's own processes, and take no commands.
    assert {status for _, status in web} <= {"401", "405"}
    assert len({port for port, status in web if status == "401"}) >= 2
    assert {status for *_, status in run.stranger["rpc"]} <= {"UNAUTHENTICATED", "UNAVAILABLE", "UNIMPLEMENTED"}
    assert len({port for port, _, status in run.stranger["rpc"] if status == "UNAUTHENTICATED"}) >= 5
    assert not run.mark.exists()


def test_nobody_else_reads_the_token_or_gets_at_the_sockets(run: Run) -> None:
    assert len(run.token) == 64
    if os.getuid() == 0:
        assert run.stranger["reads"] == []
    assert not [line for line in run.command_lines if run.token in line]
    files = [path for path in Path(run.said["logs"]).parent.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    assert not [path for path in files if run.token.encode() in path.read_bytes()]
    assert [name for name, value in run.said.items() if run.token in value] == []
    assert run.said["RAY_AUTH_MODE"] == "token"
