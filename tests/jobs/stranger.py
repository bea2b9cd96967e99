"""A stranger to a cluster, who is on its machine and has no token: tries each port by HTTP, gRPC and Ray itself.

It runs as a script with an empty environment, and becomes another user where it may. It gets the ports to try, a path
that a command would make, the address of the cluster and the paths that it tries to read and to enter as JSON. What was
answered goes to the standard output as JSON.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator

import grpc
import ray

NOBODY = 65534
GET = ("/api/version", "/api/jobs/", "/api/job_agent/jobs/", "/nodes?view=summary", "/logical/actors", "/api/v0/logs")
POST = ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env")
RPC = (
    "NodeInfoGcsService/GetClusterId",
    "InternalKVGcsService/InternalKVKeys",
    "JobInfoGcsService/GetNextJobID",
    "ActorInfoGcsService/RegisterActor",
    "NodeManagerService/RequestWorkerLease",
    "ObjectManagerService/Pull",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/Exit",
    "ReporterService/CpuProfiling",
    "LogService/StreamLog",
)


def ask_http(host: str, port: int, mark: str) -> Iterator[tuple[str, str]]:
    """What each request is answered: a status, figures for Prometheus, or the name of an error."""
    body = json.dumps({"entrypoint": f"touch {mark}"})
    for method, paths in (("GET", GET), ("POST", POST)):
        for path in paths:
            line = http.client.HTTPConnection(host, port, timeout=5)
            try:
                line.request(method, path, body if method == "POST" else None, {"Content-Type": "application/json"})
                answer = line.getresponse()
                yield f"{method} {path}", "figures" if answer.read().startswith(b"# HELP") else str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                yield f"{method} {path}", type(error).__name__
            finally:
                line.close()


def ask_rpc(host: str, port: int) -> Iterator[tuple[str, str]]:
    """What each call is answered: `OK`, or the name of a status."""
    options = [("grpc.enable_http_proxy", 0)]
    for shown in ((), (("authorization", "Bearer " + "0" * 64),)):
        with grpc.insecure_channel(f"{host}:{port}", options) as channel:
            for method in RPC:
                try:
                    channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=5, metadata=shown)
                    yield method, "OK"
                except grpc.RpcError as error:
                    yield method, error.code().name
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        # It speaks another language.
                        return


def join(address: str) -> str:
    """What Ray itself says."""
    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:  # noqa: BLE001  (told)
        return type(error).__name__
    return "joined"


def main() -> None:
    given = json.loads(sys.argv[1])
    joined = join(given["address"])
    if os.getuid() == 0:
        # After all imports: a Python may lie where only its user gets.
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    said = {
        "uid": os.getuid(),
        "http": [[port, *one] for host, port in given["ports"] for one in ask_http(host, port, given["mark"])],
        "rpc": [[port, *one] for host, port in given["ports"] for one in ask_rpc(host, port)],
        "joined": joined,
        "reads": [path for path in given["secret"] if os.access(path, os.R_OK | os.W_OK)],
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
