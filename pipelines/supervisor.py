"""Supervisor of a run: a parent process that outlives what Ray does to the driver.

Ray's native code ends the process that it runs in once Ray's own servers are gone: no handler runs, no last line is
written. So the driver is a fork of a process that imports nothing of Ray's. When a server of the local cluster dies,
the driver is asked to stop in good order, what is left of the cluster is killed, and a second driver goes on, once:
what the first one had done is in the store.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import IO, Any, Self

import psutil
import typer

from jobs.cluster import memory
from pipelines.engine.signals import signals_to
from pipelines.engine.store.lease import process_start
from pipelines.terminal import Text, make_console

_LOST = 75
"""Exit code of a driver that stopped because Ray's servers are gone."""
_LOOK_S = 0.25
_STOP_S = 20.0
"""That a driver may take to stop in good order."""
_CONNECT_S = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_OF_USER = (130, 143)
"""Exit codes after Ctrl-C and SIGTERM."""


class Link:
    """A driver's line to its supervisor, used as a context; without one, nothing is watched and `lost` stays unset."""

    def __init__(self, told: IO[bytes] | None = None, heard: IO[bytes] | None = None) -> None:
        self.lost = threading.Event()
        """Ray's servers are gone: the run has to stop."""
        self._told = told
        if heard is not None:
            threading.Thread(target=self._listen, args=(heard,), name="supervisor", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leaving()

    def command(self, command: str) -> None:
        """Tell what continues the run."""
        self._tell({"command": command})

    def cluster(self, address: str, servers: Mapping[str, int], logs: str) -> None:
        """Tell where the cluster is, which processes of this machine it cannot be without, and where their logs lie."""
        self._tell({"address": address, "servers": dict(servers), "logs": logs})

    def leaving(self) -> None:
        """Tell that this process ends by itself from here on, and Ray's with it."""
        self._tell({"leaving": True})

    def leave(self) -> None:
        """End this process at once, because of what was lost."""
        sys.stdout.flush()
        os._exit(_LOST)

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._told is not None:
            self._told.write(json.dumps(message).encode() + b"\n")
            self._told.flush()

    def _listen(self, heard: IO[bytes]) -> None:
        if heard.read(1):
            self.lost.set()


def supervise() -> Link:
    """Go on in a child of this process, the driver; the parent stays here until that has ended, and exits as it did.

    Where the driver was ended from outside, or Ray's servers died twice, the parent says so and exits with 1, or with
    128 and the number of the signal. Only on Linux, before any thread is started, and where output goes to the standard
    streams: anywhere else the process goes on by itself.

    Raises:
        typer.Exit: in the parent.
    """
    if sys.platform != "linux" or threading.active_count() > 1 or sys.stdout is not sys.__stdout__:
        return Link()
    # What the driver leaves behind becomes this process's, which ends it.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for again in (True, False):
        found = _fork()
        if isinstance(found, Link):
            return found
        end = found.wait()
        _end_children()
        if end.why:
            _say(end, found.seen, again)
        if not (end.lost and again):
            raise typer.Exit(end.code)
    raise AssertionError("one of the two has raised")


@dataclass
class _Seen:
    """What a driver has told."""

    command: str = ""
    address: str = ""
    servers: dict[str, int] = field(default_factory=dict)
    """Processes of this machine that the cluster cannot be without, by name."""
    logs: str = ""
    leaving: bool = False


@dataclass(frozen=True)
class _End:
    """How a driver ended."""

    code: int
    why: str = ""
    """What ended it; empty where it has said so itself."""
    todo: str = ""
    """Where to look, if it will not be tried again."""
    lost: bool = False
    """Whether a cluster of its own is gone, which another driver can start again."""


def _fork() -> Link | _Driver:
    """In the child its link, in the parent the driver."""
    told, heard = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, pid = os.getpid(), os.fork()
    if pid:
        os.close(told[1])
        os.close(heard[0])
        return _Driver(pid, told[0], heard[1])
    # `kill -9` of the supervisor ends the driver, and so the system ends Ray's processes.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.close(told[0])
    os.close(heard[1])
    return Link(os.fdopen(told[1], "wb"), os.fdopen(heard[0], "rb"))


class _Driver:
    """The child, as its supervisor sees it."""

    def __init__(self, pid: int, told: int, heard: int) -> None:
        self.seen = _Seen()
        self._pid, self._told, self._heard = pid, told, heard
        self._gone: dict[str, int] = {}
        self._deadline = 0.0
        self._asked = 0
        """The signal by which it was asked to stop."""

    def wait(self) -> _End:
        """Pass on signals until it has ended; see that it stops once a server of its cluster has died."""
        try:
            with signals_to(self._pass_on):
                self._listen()
                code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        finally:
            os.close(self._told)
            os.close(self._heard)
        return self._end(code)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._asked = number
        # Not reaped before `wait` has left: the number is no other process's.
        os.kill(self._pid, number)

    def _listen(self) -> None:
        """Until its end of the pipe is closed, which is when it ends."""
        poll, starts, rest = select.poll(), dict[str, str | None](), b""
        poll.register(self._told, select.POLLIN)
        while True:
            if poll.poll(_LOOK_S * 1000):
                data = os.read(self._told, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self.seen = replace(self.seen, **json.loads(line))
                starts = {name: process_start(pid) for name, pid in self.seen.servers.items()}
            self._look(starts)

    def _look(self, starts: Mapping[str, str | None]) -> None:
        if self.seen.leaving:
            return
        if self._gone:
            if self._deadline < time.monotonic():
                os.kill(self._pid, signal.SIGKILL)
        else:
            servers = self.seen.servers
            self._gone = {
                name: pid for name, pid in servers.items() if starts[name] is None or process_start(pid) != starts[name]
            }
            if self._gone:
                self._deadline = time.monotonic() + _STOP_S
                os.write(self._heard, b"!")

    def _end(self, code: int) -> _End:
        exit_code = 128 - code if code < 0 else code
        if self.seen.leaving or -code in (signal.SIGINT, signal.SIGTERM) or code in _OF_USER:
            return _End(exit_code)
        if self._asked:
            return _End(128 + self._asked, "the run was asked to stop, and ended without its last words")
        if self._gone:
            which = " and ".join(f"{name} (process {pid})" for name, pid in self._gone.items())
            return _End(1, f"Ray's {which} ended while the run needed it", f"{memory()} in {self.seen.logs}", lost=True)
        if code == -signal.SIGKILL:
            return _End(exit_code, "the process of the run was killed from outside", memory())
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = f"the process of the run ended {ended}, from inside a library, without its last words"
        if self.seen.servers:
            return _End(exit_code, said, f"{memory()} in {self.seen.logs}", lost=True)
        if self.seen.address and not _answers(self.seen.address):
            said = f"the Ray cluster at {self.seen.address} does not answer any more: see that its head runs"
        return _End(exit_code, said)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError:
        return False
    return True


def _end_children() -> None:
    """Kill what the driver has left behind."""
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass


def _say(end: _End, seen: _Seen, again: bool) -> None:
    console = make_console()
    console.show_cursor()  # the driver had no time to
    if end.lost and again:
        console.print(
            Text(f"{end.why}: Ray is started again, once, and the run goes on.", "bold yellow"), soft_wrap=True
        )
        return
    console.print(Text(": ".join(filter(None, (end.why, end.todo))), "bold red"), soft_wrap=True)
    if seen.command:
        console.print(Text("What is done is kept. Once the cause is mended, the same command continues:", "bold"))
        console.print(f"  {seen.command}", soft_wrap=True)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value):
        raise OSError(ctypes.get_errno(), f"prctl {option}")
