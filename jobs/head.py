"""A Ray cluster that is started, or tried out, in a process that can be given up: within a deadline, or on Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

_LOOK_S = 0.2
_END_S = 15.0
"""That a cluster may take to end by itself."""
_SCRIPT = Path(__file__).with_name("ray_head.py")
_SAID_CHARS = 300


class NotStartedError(Exception):
    """Ray said why it did not start, or its process ended without a word; the message tells."""


class RefusedError(NotStartedError):
    """The cluster wants a token, and not what was shown."""


class Head:
    """The process; call everything on the thread that makes it, which has to live as long as the cluster."""

    def __init__(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Begin to start or join a cluster.

        Args:
            settings: keyword arguments of `ray.init`.
            environment: variables of the process.
        """
        self.mode = ""
        """Whether the cluster has tokens, as `RAY_AUTH_MODE` says it; known with its address."""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        command = [sys.executable, "-P", str(_SCRIPT), json.dumps(dict(settings)), str(os.getpid())]
        # In a session of its own, so that Ctrl-C in a terminal ends it in our order.
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
            env=dict(environment),
        )  # fmt: skip
        # Both are pipes, and so there.
        self._wanted: Any = self._process.stdin
        self._said: Any = self._process.stdout

    def address(self, deadline: float) -> str:
        """Wait until the cluster answers, and return its address.

        Args:
            deadline: in seconds of `time.monotonic`.

        Raises:
            TimeoutError: it does not.
            NotStartedError: it never will.
            RefusedError: it wants a token.
        """
        line = b""
        said = select.poll()  # unlike select(), for any number of a descriptor
        said.register(self._said, select.POLLIN)
        while not line.endswith(b"\n"):
            # Python handles signals between two looks.
            if not said.poll(_LOOK_S * 1000):
                if time.monotonic() > deadline:
                    raise TimeoutError
                continue
            chunk = os.read(self._said.fileno(), 1 << 16)
            if not chunk:
                raise NotStartedError(self._last_words())
            line += chunk
        answer = json.loads(line)
        if "refused" in answer:
            raise RefusedError
        if "error" in answer:
            raise NotStartedError(_short(answer["error"]))
        self.mode = answer.get("mode", "")
        return str(answer["address"])

    def children(self) -> dict[str, int]:
        """The processes that it has started, by name."""
        return {one.name(): one.pid for one in psutil.Process(self._process.pid).children()}

    def close(self) -> None:
        """End the cluster if this process has started it, else leave it; kill what does not end by itself."""
        self._wanted.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self.kill()

    def kill(self) -> None:
        """Kill it, and all that it has started."""
        if self._process.poll() is None:
            root = psutil.Process(self._process.pid)
            # It starts nothing any more.
            root.suspend()
            for one in [*root.children(recursive=True), root]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            self._process.wait()
        for file in (self._wanted, self._said, self._log):
            file.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "backslashreplace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process ended with {end}{f' ({words[-1]})' if words else ''}"


def _short(said: str) -> str:
    """In one line; of a long text, such as one with the end of a log in it, its first, which names the log."""
    whole = " ".join(said.split())
    first = " ".join(said.strip().partition("\n")[0].split())
    return whole if len(whole) <= _SAID_CHARS else first[:_SAID_CHARS].rstrip(": ")
