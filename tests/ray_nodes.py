"""Ray clusters of several nodes on this machine, each node a process tree of its own that can be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_STARTED_S = 180


class Nodes:
    """A head with a dashboard, and the nodes that joined it.

    Every node has a temporary directory of its own: with a common one, nodes on one machine delete each other's copy of
    a job's working directory.
    """

    def __init__(self, folder: Path, head_cpus: int, **environment: str) -> None:
        self.folder, self.environment = folder, environment
        self.port, dashboard = _free_port(), _free_port()
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        head = [
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={self.port}",
            f"--num-cpus={head_cpus}",
            f"--dashboard-port={dashboard}",
        ]
        self.head = self._start("head", *head, f"--dashboard-agent-listen-port={_free_port()}")

    def join(self, cpus: int) -> subprocess.Popen[bytes]:
        """Add a node."""
        place = f"node{len(self.nodes)}"
        agent = f"--dashboard-agent-listen-port={_free_port()}"
        # Workers find their node by its address.
        address = f"--node-ip-address=127.0.0.{len(self.nodes) + 2}"
        self.nodes.append(self._start(place, address, f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}", agent))
        return self.nodes[-1]

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a node with everything on it."""
        _kill_tree(node)

    def close(self) -> None:
        """End everything, and let no later `ray.init` look for it."""
        for process in (*self.nodes, self.head):
            _kill_tree(process)
        Path("/tmp/ray/ray_current_cluster").unlink(missing_ok=True)  # noqa: S108  (where Ray writes it)

    def _start(self, place: str, *arguments: str) -> subprocess.Popen[bytes]:
        # The paths of sockets may have 107 characters, so these lie near the root.
        temporary = self.folder / place
        temporary.mkdir()
        log = self.folder / f"{place}.log"
        binaries = Path(sys.executable).parent
        command = [str(binaries / "ray"), "start", "--block", "--disable-usage-stats", f"--temp-dir={temporary}"]
        command += ["--object-store-memory=150000000", *arguments]
        environment = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_raylet_start_wait_time_s": "180",
            **self.environment,
        }
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=environment)
        deadline = time.monotonic() + _STARTED_S
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return process


@contextmanager
def ray_nodes(head_cpus: int, *cpus: int, **environment: str) -> Iterator[Nodes]:
    """A cluster for the length of the block: CPUs of the head and of each other node, and the head's environment."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder), head_cpus, **environment)
        try:
            for count in cpus:
                nodes.join(count)
            yield nodes
        finally:
            nodes.close()


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        root = psutil.Process(process.pid)
        for one in (*root.children(recursive=True), root):
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
