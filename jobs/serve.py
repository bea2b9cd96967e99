"""Video server on Ray Serve: one front with the HTTP API and the queue, and a replica with the networks for each GPU.

Ray Serve starts, watches and restarts both, on this machine or on a cluster.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import re
import socket
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.serve_queue import Event
from jobs.serve_request import ClipSettings, Limits, Served

APPLICATION = "lumina"
_POLL_S = 1.0
_LATEST_ERROR = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)

log = logging.getLogger(__name__)


class ServeError(Exception):
    """The server cannot start, or has ended; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """Where a checkpoint is served, and by how much."""

    host: str
    port: int
    replicas: int
    device: str
    """Of the replicas, as torch names it: "cpu" or "cuda"."""
    threads: int | None = None
    """Of torch in a replica on a CPU; None leaves them."""

    @property
    def address(self) -> str:
        """For a browser on the machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  (compared, not bound)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def names(self) -> Collection[str]:
        """Names under which it may be asked; empty is any, where it is open to others."""
        from jobs.serve_api import LOOPBACK

        return {*LOOPBACK, self.host} if is_loopback(self.host) else ()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_packages() -> None:
    """Raise ServeError where Ray Serve lacks one of its packages. Imports no Ray, which reads settings when it is."""
    for name in ("starlette", "grpc_reflection", "watchfiles", "mmh3"):
        if importlib.util.find_spec(name) is None:
            raise ServeError(f"Ray Serve lacks {name}: `pip install 'lumina-video[serve]'` brings what it needs")


def check_port(host: str, port: int) -> None:
    """Raise ServeError where nothing can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServeError(f"--host {host}: {error.strerror or error}; give an address of this machine") from error
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(address)
        except OSError as error:
            raise ServeError(f"port {port} of {host}: {error.strerror or error}; take another --port") from error


class Replica:
    """Ray Serve deployment: a `ClipMaker` in a process of its own."""

    def __init__(self, served: Served, device: str, threads: int | None) -> None:
        """Load the networks."""
        from jobs.serve_worker import ClipMaker, load

        self._maker = ClipMaker(lambda: load(served, device, threads))

    async def make(self, settings: str) -> AsyncGenerator[Event, None]:
        """See `ClipMaker.make`; takes the settings as JSON."""
        async with aclosing(self._maker.make(ClipSettings.model_validate_json(settings))) as events:
            async for event in events:
                yield event


class Front:
    """Ray Serve deployment: the HTTP API and the queue, which hands clips to the replicas."""

    def __init__(self, replicas: Any, served: Served, limits: Limits, count: int, names: Collection[str]) -> None:
        """Take the handle of so many replicas."""
        self._replicas, self._served, self._limits = replicas, served, limits
        self._count, self._names = count, names

    def __serve_build_asgi_app__(self) -> Any:
        from jobs.serve_api import make_app
        from jobs.serve_queue import VideoQueue

        return make_app(
            self._served, self._limits, lambda: VideoQueue(self._make, self._count, self._limits), self._names
        )

    async def _make(self, settings: ClipSettings) -> AsyncGenerator[Event, None]:
        answers = self._replicas.options(stream=True).make.remote(settings.model_dump_json())
        try:
            async for event in answers:
                yield event
        finally:
            answers.cancel()  # does nothing to what has ended


@contextmanager
def serving(server: Server, served: Served, limits: Limits) -> Iterator[None]:
    """Serve on the Ray cluster that this process is connected to, once every replica is loaded, until the block ends.

    What is being made then is stopped, and nothing of Ray Serve stays.

    Raises:
        ServeError: the networks cannot be loaded, the cluster has no room, or serves something else already.
    """
    from ray import serve
    from ray.exceptions import RayError

    _check_alone()
    try:
        _start(server, served, limits)
        yield
    finally:
        try:
            serve.shutdown()
        except (RayError, RuntimeError) as error:
            log.warning("Ray Serve did not end in good order: %s", str(error).strip().partition("\n")[0])


def _start(server: Server, served: Served, limits: Limits) -> None:
    from ray import serve

    for name in ("ray.serve", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    gpus = 1 if server.device.startswith("cuda") else 0
    _check_room(server, gpus)
    replicas = serve.deployment(
        name="replica",
        num_replicas=server.replicas,
        # The queue is the front's.
        max_ongoing_requests=1,
        ray_actor_options={"num_cpus": 1 - gpus, "num_gpus": gpus},
        # What fails to load once fails again.
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=quiet,
    )(Replica).bind(served, server.device, server.threads)
    front = serve.deployment(
        name="front",
        num_replicas=1,
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=quiet,
    )(serve.ingress()(Front)).bind(replicas, served, limits, server.replicas, server.names)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": server.host, "port": server.port},
        logging_config=quiet,
    )
    try:
        serve.run(front, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise ServeError(f"the checkpoint cannot be served: {_reason(_told(str(error)))}") from error


def _check_alone() -> None:
    """Ray Serve has one address on a cluster, and who ends it ends all that it serves."""
    import ray

    if any(actor["namespace"] == "serve" for actor in ray.util.list_named_actors(all_namespaces=True)):
        raise ServeError("the cluster serves something already, and has one server at a time: `serve shutdown` ends it")


def _check_room(server: Server, gpus: int) -> None:
    import ray

    from jobs.capacity import room

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = "GPU" if gpus else "CPU"
    fit = room(nodes, {kind: 1})
    if fit < server.replicas:
        raise ServeError(f"{server.replicas} replicas take a {kind} each, and the cluster has {fit}: lower --replicas")


def _told(text: str) -> str:
    """What Ray Serve says of the deployments, of which an error names but the names; `text` if it says nothing."""
    from ray import serve

    found = serve.status().applications.get(APPLICATION)
    deployments = [] if found is None else [found.deployments[name].message for name in sorted(found.deployments)]
    return "\n".join(filter(None, deployments)) or text


def _reason(text: str) -> str:
    """The last error of the tracebacks that Ray Serve hands on as one text."""
    found = [f"{name}: {said}" for name, said in _LATEST_ERROR.findall(text) if not name.startswith("RayTask")]
    return (found or text.strip().splitlines())[-1]


def watch() -> None:
    """Return never: raises ServeError when the server has ended, or what interrupts it."""
    from ray import serve

    while True:
        time.sleep(_POLL_S)
        found = serve.status().applications.get(APPLICATION)
        if found is None or found.status == "DEPLOY_FAILED":
            raise ServeError(
                "the server has ended: " + (_reason(found.message) if found else "Ray Serve knows it no more")
            )
