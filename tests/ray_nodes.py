"""Ray clusters of several nodes on this machine, each node a process tree of its own that can be killed.

Tests and benchmarks use it. It lies among the tests, as their other tools do, since nothing that ships may need it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
_STARTED_S = 180


class Nodes:
    """A head, with a dashboard unless it is told to have none, and the nodes that joined it.

    Every node has a temporary directory of its own: with a common one, nodes on one machine delete each other's copy of
    a job's working directory.
    """

    def __init__(
        self,
        folder: Path,
        head_cpus: int,
        resources: Mapping[str, float] | None = None,
        dashboard: bool = True,
        autoscaled: int = 0,
        **environment: str,
    ) -> None:
        self.folder, self.environment = folder, environment
        # Ray reads its variables when it is imported.
        from ray.util import get_node_ip_address

        port, page = _free_port(), _free_port()
        # The nodes that an autoscaler brings take the machine's own address.
        host = get_node_ip_address() if autoscaled else "127.0.0.1"
        self.address, self.dashboard = f"{host}:{port}", f"http://127.0.0.1:{page}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        head = ["--head", f"--node-ip-address={host}", f"--port={port}", f"--num-cpus={head_cpus}"]
        if autoscaled:
            (folder / "autoscaling.json").write_text(json.dumps(_autoscaling(self.address, autoscaled)))
            head += [f"--autoscaling-config={folder / 'autoscaling.json'}"]
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        head += [f"--resources={json.dumps(dict(resources or {}))}"]
        # Ray looks at the port even without a dashboard.
        head += [f"--dashboard-port={page}", f"--include-dashboard={str(dashboard).lower()}"]
        self.head = self._start("head", *head)

    def join(self, cpus: int) -> subprocess.Popen[bytes]:
        """Add a node."""
        place = f"node{len(self.nodes)}"
        # Workers find their node by its address.
        address = f"--node-ip-address=127.0.0.{len(self.nodes) + 2}"
        self.nodes.append(self._start(place, address, f"--address={self.address}", f"--num-cpus={cpus}"))
        return self.nodes[-1]

    def alive(self) -> list[subprocess.Popen[bytes]]:
        """The nodes that were not lost, in the order in which they joined."""
        return [node for node in self.nodes if node.poll() is None]

    def running(self, word: str) -> list[subprocess.Popen[bytes]]:
        """The nodes that run a process whose command line holds `word`."""
        return [node for node in self.alive() if processes(node.pid, word)]

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a node, or the head, with everything on it."""
        kill_tree(node)

    def close(self) -> None:
        """End everything, and let no later `ray.init` look for it."""
        for process in (*self.nodes, self.head):
            kill_tree(process)
        Path("/tmp/ray/ray_current_cluster").unlink(missing_ok=True)  # noqa: S108  (where Ray writes it)

    def _start(self, place: str, *arguments: str) -> subprocess.Popen[bytes]:
        # The paths of sockets may have 107 characters, so these lie near the root.
        temporary = self.folder / place
        temporary.mkdir()
        log = self.folder / f"{place}.log"
        binaries = Path(sys.executable).parent
        command = [str(binaries / "ray"), "start", "--block", "--disable-usage-stats", f"--temp-dir={temporary}"]
        command += ["--object-store-memory=150000000", f"--dashboard-agent-listen-port={_free_port()}", *arguments]
        environment = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "RAY_raylet_start_wait_time_s": "180",
            # A cluster that this process had for itself before may have left a no.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            **self.environment,
        }
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=environment)
        deadline = time.monotonic() + _STARTED_S
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                kill_tree(process)
                raise RuntimeError(f"the Ray node {place} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.2)
        return process


@contextmanager
def ray_nodes(
    head_cpus: int,
    *cpus: int,
    resources: Mapping[str, float] | None = None,
    dashboard: bool = True,
    autoscaled: int = 0,
    **environment: str,
) -> Iterator[Nodes]:
    """A cluster for the length of the block.

    Args:
        head_cpus: CPUs of the head.
        cpus: CPUs of each other node.
        resources: custom resources of the head.
        dashboard: whether the head has one; jobs need it.
        autoscaled: nodes of one CPU at most that Ray's autoscaler brings when they are needed, and takes away. They
            share a temporary directory, so they serve drivers that join the cluster, not submitted jobs.
        environment: of all nodes.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder), head_cpus, resources, dashboard, autoscaled, **environment)
        try:
            for count in cpus:
                nodes.join(count)
            yield nodes
        finally:
            nodes.close()


def _autoscaling(address: str, most: int) -> dict[str, object]:
    """A config for Ray's fake provider, whose nodes are processes on this machine.

    `ray.cluster_utils.AutoscalingCluster` serves nobody here: it begins with `ray stop --force`, which ends all Ray of
    the machine, and reads a file that the wheel does not have.
    """
    switches = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check")
    provider = {"type": "fake_multinode", "gcs_address": address, **dict.fromkeys(switches, True)}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    worker = {"resources": {"CPU": 1, "object_store_memory": 150_000_000}, "node_config": {}, "max_workers": most}
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 20.0,
        "idle_timeout_minutes": 1.0,
        "provider": provider,
        # Ray knows the head by this name alone.
        "available_node_types": {"ray.head.default": head, "worker": {**worker, "min_workers": 0}},
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in (*lists, "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def lumina(home: Path, *arguments: str) -> list[str]:
    """The command line as somebody types it whose virtual environment is not active."""
    shown = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("RAY_AUTH_")]
    return [
        "/usr/bin/env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT}",
        *shown, sys.executable, "-P", "-c", "from pipelines.cli import main; main()", *arguments,
    ]  # fmt: skip


def digests(store: Path) -> dict[str, str]:
    """Stage to digest, from the manifests of a store."""
    manifests = [json.loads(path.read_text()) for path in sorted(store.glob("stages/*/*/MANIFEST.json"))]
    return {one["stage"]: one["digest"] for one in manifests}


def processes(root: int, word: str) -> list[psutil.Process]:
    """The processes below that of the id `root` whose command line holds `word`, by their id."""
    found = []
    for one in psutil.Process(root).children(recursive=True):
        try:
            if word in " ".join(one.cmdline()):
                found.append(one)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return sorted(found, key=lambda process: process.pid)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a process and all below it."""
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
