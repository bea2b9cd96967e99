"""A Ray driver in a process of its own, which starts a cluster or joins one, and says so in a line.

`ray.init` holds the interpreter's lock while it waits for Ray's processes: no signal is seen, no other thread runs, and
nothing ends it. This process can be killed. It runs as a script, with the keyword arguments of `ray.init` as JSON and
the id of the process that wants the cluster, and lives as long as that one holds its standard input open.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1
_MODE = "RAY_AUTH_MODE"
_ASKED_S = 5.0


class _RefusedError(Exception):
    """The cluster wants a token, and not what this process has."""


def main() -> None:
    """Write `{"address": ..., "mode": ...}`, or `{"error": ...}`, and end the cluster when nobody wants it any more."""
    settings, parent = json.loads(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        # `kill -9` of the driver ends this process, and so the system ends Ray's.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    answer = os.dup(1)
    # What Ray prints is for the log.
    os.dup2(2, 1)
    import ray

    said: dict[str, Any]
    try:
        mode = _mode(settings["address"])
        if mode != os.environ.get(_MODE, mode):
            # Ray has read the other one. What starts here is this process still, to the one that wants it.
            os.dup2(answer, 1)
            os.environ[_MODE] = mode
            os.execv(sys.executable, [sys.executable, "-P", *sys.argv])  # noqa: S606
        said = {"address": ray.init(**settings).address_info["gcs_address"], "mode": mode}
    except _RefusedError:
        said = {"error": "", "refused": True}
    except Exception as error:  # noqa: BLE001  (told by the process that wants the cluster)
        said = {"error": f"{type(error).__name__}: {error}".strip()}
    with os.fdopen(answer, "w") as told:
        told.write(f"{json.dumps(said)}\n")
    sys.stdin.read()
    ray.shutdown()


def _mode(address: str) -> str:
    """`token` or `disabled`: what the cluster at an address has, asked without a token first.

    One that has no tokens could not answer a process that wants them. `ray.init` would not tell, but wait.

    Raises:
        _RefusedError: it wants a token.
    """
    mode = os.environ.get(_MODE, "disabled").lower()
    if address == "local" or "://" in address or os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return mode
    import grpc
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
    from ray._private.services import canonicalize_bootstrap_address_or_die

    with grpc.insecure_channel(
        canonicalize_bootstrap_address_or_die(address), options=[("grpc.enable_http_proxy", 0)]
    ) as channel:

        def refused(shown: Mapping[str, str]) -> bool:
            ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
            try:
                ask(b"", timeout=_ASKED_S, metadata=list(shown.items()))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
                return True
            return False

        try:
            if not refused({}):
                return "disabled"
            # Nothing where the mode is another.
            shown = get_auth_headers_if_auth_enabled({})
            if not shown or refused(shown):
                raise _RefusedError
        except grpc.RpcError:
            # Nobody is there yet, or ever: `ray.init` waits, and tells.
            pass
    return mode


if __name__ == "__main__":
    main()
