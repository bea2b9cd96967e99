"""The Ray cluster a run executes on: a local one, started once, or a running one by address."""

from __future__ import annotations

import logging
import math
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs import tokens
from jobs.head import Head, NotStartedError, RefusedError
from jobs.memory import memory_told
from jobs.ray_faults import shortened
from jobs.runtime import RuntimeConfig

OBJECT_STORE_BYTES = 1 << 30
_NEEDS_BYTES = OBJECT_STORE_BYTES + (1 << 30)
"""What a local cluster takes before it does anything: the objects' memory, and its own processes."""
_DISK_BYTES = 64 << 20
"""Where less is free, a local cluster fails to write its first files."""
_SERVERS = {"gcs_server": "GCS", "raylet": "raylet"}
"""Processes without which a cluster is none, and what they are called."""
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Of the training workers, where torch takes the address of the machine's name otherwise."""
_ANSWER_S = 120.0
_TELL_S = 60.0
"""Between two lines on what Ray has lost."""
_OPEN = (
    "the Ray cluster at {} asks for no token: whoever reaches it runs commands there as its user; start it with "
    "RAY_AUTH_MODE=token"
)
_lock = threading.Lock()
_heads: list[Head] = []
"""The local cluster of this process, if it has started one."""


logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """There is no cluster to run on; the message says why and what to do."""


def logical_cpus(runtime: RuntimeConfig) -> int:
    """CPUs that a local cluster hands out: logical, since stages on a small machine mostly wait for each other.

    Ray needs more than the training workers take, or a dataset beside them would wait for ever.
    """
    return runtime.num_cpus or max(4, 2 * (os.cpu_count() or 1))


def ensure(runtime: RuntimeConfig) -> str:
    """Connect this process to Ray, starting a local cluster unless `runtime.ray_address` names one.

    Call it on the main thread: the system ends the processes of a local cluster with the thread that started them, so
    that nothing is left behind even by `kill -9`. A second call does nothing.

    Ray starts, or is tried out, in another process first. Only that one waits where nothing can interrupt it; an
    exception that a signal raises here ends it, and all that it started.

    Returns:
        Address of the cluster's page; empty if it has none, or the second time.

    Raises:
        ClusterError: it does not start, or answer, within `runtime.ray_start_s`, or says why it cannot.
    """
    with _lock:
        # Read when Ray is imported, here and in its workers. A user's own setting stands.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        if runtime.ray_address is None:
            # Whoever reaches a port of Ray's runs commands as this user. The token keeps off others on this machine.
            # No network reaches a port: despite its name, the setting has Ray listen on the loopback alone.
            os.environ |= {**tokens.own(), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **_LOOPBACK}
            # Nobody asks for these figures, and they would be served to everybody.
            os.environ.setdefault("RAY_enable_metrics_collection", "0")
            # A task that finds no memory would be tried for ever. Each wait is twice the one before: a minute in all.
            os.environ.setdefault("RAY_task_oom_retries", "5")
            # Ray warns when four times as many workers run; here most of them wait, as intended.
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(logical_cpus(runtime)))
            # The one node is not taken away with notice, and each training would start a process that waits for that.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            # Ray gives its page a minute, however long we would wait.
            os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", str(math.ceil(runtime.ray_start_s)))
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            return ""
        return _quieten(_join(runtime))


def _join(runtime: RuntimeConfig) -> Any:
    """Start a cluster in another process and connect to it, or connect to the one that is named, once that works."""
    deadline = time.monotonic() + runtime.ray_start_s
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    environment = dict(os.environ)
    if runtime.ray_address is None:
        # Else it would join, or stumble over, a cluster that happens to run on this machine.
        local = {
            "address": "local",
            "num_cpus": logical_cpus(runtime),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": True,
            "_temp_dir": str(_private() / "ray"),
        }
        head = Head({**local, **quiet}, environment)
    else:
        # The process that tries is no part of the submitted job that this may be.
        environment.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
        try:
            tokens.show_to_clusters(environment)
        except tokens.TokenError as error:
            raise ClusterError(str(error)) from error
        head = Head({"address": runtime.ray_address, **quiet}, environment)
    try:
        if runtime.ray_address is None:
            import ray  # while the other process does the same
        try:
            address = head.address(deadline)
        except (TimeoutError, NotStartedError) as error:
            raise ClusterError(_why(runtime, error)) from error
        if runtime.ray_address is None:
            _heads.append(head)
            return ray.init(address=address, **quiet)
        head.close()
        os.environ[tokens.MODE] = head.mode
        if head.mode != "token":
            logger.warning(_OPEN.format(runtime.ray_address))
        import ray

        return ray.init(address=runtime.ray_address, **quiet)
    except BaseException:
        _heads.clear()
        head.kill()
        raise


def _base() -> Path:
    """Where Ray puts its folder, if it is told of no other place."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")  # noqa: S108


def _folder() -> Path:
    return _base() / f"lumina-{os.getuid()}"


def _private() -> Path:
    """Folder of this user, for the local clusters of all runs, that nobody else enters.

    Ray lets everybody write into its own, where sockets, ports and code lie: who does takes its place.

    Raises:
        ClusterError: others have a way in.
    """
    path = _folder()
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ClusterError(f"{path} cannot be made ({error.strerror}): set RAY_TMPDIR to a folder of yours") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ClusterError(
            f"{path} is not a folder that this user alone can enter (mode 700), and Ray's sockets would lie there: "
            "delete it, or set RAY_TMPDIR to a folder of yours"
        )
    return path


def logs(runtime: RuntimeConfig) -> Path:
    """Where Ray's logs lie: on this machine for a local cluster, on its nodes for another."""
    return (_folder() if runtime.ray_address is None else _base()) / "ray" / "session_latest" / "logs"


def token_path() -> str:
    """File with the token of the local cluster, which its page asks for; empty if there is no such cluster or file."""
    return os.environ.get(tokens.FILE, "") if _heads else ""


def gcs_address() -> str:
    """Where the servers of the cluster are that this process is connected to."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def servers() -> dict[str, int]:
    """Processes that the local cluster of this process cannot be without, by name; empty if there is no such cluster.

    They end with each other, so that the first one to be missed is the one that died.
    """
    found = {name: pid for head in _heads for name, pid in head.children().items()}
    return {label: found[name] for name, label in _SERVERS.items() if name in found}


def memory() -> str:
    """Whether memory is short for a local cluster, who has it, and what to do."""
    return memory_told(_NEEDS_BYTES, OBJECT_STORE_BYTES)


def _why(runtime: RuntimeConfig, error: Exception) -> str:
    """What the user reads of a cluster that did not start."""
    late = isinstance(error, TimeoutError)
    if runtime.ray_address is None:
        said = f"within {runtime.ray_start_s:g} s" if late else f"({error})"
        if (free := shutil.disk_usage(_base()).free) < _DISK_BYTES:
            return (
                f"Ray did not start {said}: {_base()} has {free >> 20} MiB free, and Ray's sockets and logs lie there: "
                "free some, or set RAY_TMPDIR to another folder"
            )
        return f"Ray did not start {said}: {memory()}, or allow a slow machine a longer runtime.ray_start_s"
    if isinstance(error, RefusedError):
        return f"the Ray cluster at {runtime.ray_address} {tokens.refusal(os.environ)}"
    if late:
        return (
            f"the Ray cluster at {runtime.ray_address} did not answer within {runtime.ray_start_s:g} s: see that its "
            "head runs and can be reached from here, or give another runtime.ray_address or a longer "
            "runtime.ray_start_s"
        )
    return f"the Ray cluster at {runtime.ray_address} cannot be joined ({error}); see that it runs, and its address"


def _quieten(joined: Any) -> str:
    """Keep Ray Data from reporting by itself; returns the address of the cluster's page, or nothing."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It would warn about every dataset that its progress bars are off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # And that a dataset may wait for a CPU: here stages wait for each other, as intended.
    logging.getLogger("ray.data.dataset").setLevel(logging.ERROR)
    _shorten_messages()
    return f"http://{joined.dashboard_url}" if joined.dashboard_url else ""


def _shorten_messages() -> None:
    """Ray prints pages on the driver's terminal, of processes that it lost. There is no setting for it."""
    from ray._private import worker

    told_s = -_TELL_S

    def show(data: Mapping[str, Any], **_: Any) -> None:
        nonlocal told_s
        for line in filter(None, map(shortened, data["lines"])):
            if time.monotonic() - told_s >= _TELL_S:
                told_s = time.monotonic()
                logger.warning(line)

    worker.print_to_stdstream = show


def blind_nodes(path: Path) -> list[str]:
    """Addresses of the nodes that do not see a file or folder, or do not answer within two minutes.

    Everything that goes from node to node lies in the store, so a node that does not see it fails whatever it is given.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def sees(name: str) -> bool:
        import os

        return os.path.exists(name)

    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(sees).options(scheduling_strategy=there)
            asked[task.remote(str(path))] = str(node["NodeManagerAddress"])
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    return sorted([*(asked[one] for one in answered if not ray.get(one)), *(asked[one] for one in silent)])


def shutdown() -> None:
    """Leave the cluster, and end it if it is a local one."""
    with _lock:
        import ray

        if ray.is_initialized():
            ray.shutdown()
        while _heads:
            _heads.pop().close()
