"""Leases: who is working on a stage. They save double work; correctness rests on the manifest alone.

The time of a heartbeat is the modification time of LEASE.json, and a taker reads the present off a file that it touches
beside it: both are of one clock, the file server's, so hosts whose clocks differ agree on who is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Protocol

from lumina.files import replace_file
from pipelines.engine.store.typed import Number, Text, Whole, checked, parse, read_text
from pipelines.errors import LeaseLostError, PipelineError

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    owner: Text
    """Unique per acquisition."""
    host: Text
    pid: Whole
    process_start: Text
    """Start time of the process as the system tells it: with the pid it names one process for ever."""
    machine: Text = ""
    """See `this_machine`: two containers may have one name, and each a process of the same number."""
    heartbeat: Number = field(default=0.0, compare=False)
    """Seconds since the epoch, by the clock of the file system."""

    @classmethod
    def me(cls) -> Holder:
        """This process, for one acquisition."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, process_start(pid) or "", this_machine())

    @property
    def is_here(self) -> bool:
        """Whether its pid says something in this process."""
        return is_here(self.host, self.machine)

    def is_alive(self, now: float | None = None) -> bool:
        """Whether the holder may still be at work: exact on this machine, by heartbeat elsewhere.

        `now` is the present by the clock that told the heartbeat; by default this host's, good enough to show.
        """
        if self.is_here:
            return process_start(self.pid) == self.process_start
        return (time.time() if now is None else now) - self.heartbeat < EXPIRY_S

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def this_machine() -> str:
    """What tells the pids of this process from those of others: the boot of the kernel and the namespace of pids.

    Empty where the system has neither, and the name of the host is all there is.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_here(host: str, machine: str) -> bool:
    """Whether a process of that host and machine is seen from this one by its pid."""
    return (host, machine) == (socket.gethostname(), this_machine())


def process_start(pid: int) -> str | None:
    """When a process of this host started, in the system's own words; None when there is none."""
    try:
        # The command name in parentheses may hold spaces; the start time is the 20th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except ProcessLookupError:
        return None
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return found.stdout.strip() or None


class HeldLease(Protocol):
    """A lease that this process holds."""

    def refresh(self) -> None:
        """Renew the heartbeat; LeaseLostError if somebody else holds the lease now."""

    def release(self) -> None:
        """Give the lease back; nothing happens if it was lost."""


@dataclass
class Lease:
    """A held lease on one fingerprint's directory."""

    directory: Path
    holder: Holder

    def refresh(self) -> None:
        """Renew the heartbeat.

        Raises:
            LeaseLostError: somebody else holds the lease now, or the directory is gone.
        """
        try:
            with _locked(self.directory):
                current = read_holder(self.directory)
                if current is None or current.owner != self.holder.owner:
                    raise lost(str(self.directory / "LEASE.json"), current)
                os.utime(self.directory / "LEASE.json")
        except FileNotFoundError as error:
            raise lost(str(self.directory / "LEASE.json"), None) from error

    def release(self) -> None:
        """Give the lease back; nothing happens if it was lost. Where it cannot be, it ends with this process."""
        if not self.directory.is_dir():
            return
        try:
            with _locked(self.directory):
                current = read_holder(self.directory)
                if current is not None and current.owner == self.holder.owner:
                    (self.directory / "LEASE.json").unlink()
        except OSError as error:
            # What the lease was for has ended by now, well or not; that must not hide behind this.
            log.warning("%s: the lease stays until this process ends: %s", self.directory, error)


class HeldLeases:
    """The leases of this process, kept alive by one thread."""

    def __init__(self) -> None:
        self._leases: list[HeldLease] = []
        self._lock = threading.Lock()
        self.lost: list[tuple[HeldLease, LeaseLostError]] = []
        """Those that another runner has now, or nobody: what they were for must not go on."""

    def add(self, lease: HeldLease) -> None:
        """Keep a lease alive from now on."""
        with self._lock:
            self._leases.append(lease)

    def remove(self, lease: HeldLease) -> None:
        """Leave a lease alone from now on."""
        with self._lock:
            self._leases = [held for held in self._leases if held is not lease]

    def release_all(self) -> None:
        """Give all leases back."""
        with self._lock:
            leases, self._leases = self._leases, []
        for lease in leases:
            lease.release()

    def beat(self, finished: threading.Event) -> None:
        """Body of the heartbeat thread."""
        while not finished.wait(HEARTBEAT_S):
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                try:
                    lease.refresh()
                except LeaseLostError as error:
                    # One that was given back in the meantime is none.
                    if self._holds(lease):
                        self.remove(lease)
                        self.lost.append((lease, error))
                except (PipelineError, OSError) as error:
                    # Whoever takes the lease over meanwhile shows up at the next beat; a full disk at the commit.
                    if self._holds(lease):
                        log.warning("heartbeat: %s", error)

    def _holds(self, lease: HeldLease) -> bool:
        with self._lock:
            return any(held is lease for held in self._leases)


def lost(record: str, now: Holder | None) -> LeaseLostError:
    """The error of a holder that is none any more; `record` names the lease."""
    if now is None:
        return LeaseLostError(f"{record} is gone or was overwritten, so another runner may compute the same")
    return LeaseLostError(f"{now} has taken the lease {record} over, and computes the same")


def read_holder(directory: Path) -> Holder | None:
    """Who holds the lease, dead or alive; None when nobody does or the record is damaged."""
    path = directory / "LEASE.json"
    try:
        found = parse(read_text(path))
        # Of one that was replaced in between, a heartbeat that is too young: nobody takes that over too early.
        return checked(Holder, {**found, "heartbeat": path.stat().st_mtime})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # Written by os.replace, so only a disk fault or a stranger can damage it; taking over is safe.
        return None


def try_acquire(directory: Path) -> Lease | Holder:
    """Take the lease, from a dead holder too; returns the holder when one is alive."""
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory) as lock:
        current = read_holder(directory)
        if current is not None:
            os.utime(lock.fileno())
            if current.is_alive(os.fstat(lock.fileno()).st_mtime):
                return current
        holder = Holder.me()
        _write(directory, holder)
        return Lease(directory, holder)


def _write(directory: Path, holder: Holder) -> None:
    record = asdict(holder)
    del record["heartbeat"]
    replace_file(directory / "LEASE.json", json.dumps(record).encode())


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[IO[str]]:
    """Guard the read-then-write of a lease; the system drops the lock with the process."""
    with (directory / "LEASE.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
