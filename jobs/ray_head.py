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
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Write `{"address": ...}`, or `{"error": ...}`, and end the cluster when nobody wants it any more."""
    settings, parent = json.loads(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        # `kill -9` of the driver ends this process, and so the system ends Ray's.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    answer = os.fdopen(os.dup(1), "w")
    # What Ray prints is for the log.
    os.dup2(2, 1)
    import ray

    said: dict[str, Any]
    try:
        said = {"address": ray.init(**settings).address_info["gcs_address"]}
    except Exception as error:  # noqa: BLE001  (told by the process that wants the cluster)
        said = {"error": f"{type(error).__name__}: {error}".strip()}
    answer.write(f"{json.dumps(said)}\n")
    answer.flush()
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
