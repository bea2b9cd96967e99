"""Leases: who is working on a stage. They save double work; correctness rests on the manifest alone."""

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
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.errors import LeaseLostError

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    owner: str
    """Unique per acquisition."""
    host: str
    pid: int
    process_start: str
    """Start time of the process as the system tells it: with the pid it names one process for ever."""
    heartbeat: float
    """Seconds since the epoch."""

    def is_alive(self) -> bool:
        """Whether the holder may still be at work: exact on this host, by heartbeat elsewhere."""
        if self.host == socket.gethostname():
            return process_start(self.pid) == self.process_start
        return time.time() - self.heartbeat < EXPIRY_S

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


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
        with _locked(self.directory):
            current = read_holder(self.directory)
            if current is None or current.owner != self.holder.owner:
                raise LeaseLostError(f"{self.directory}: the lease went to {current or 'nobody'}")
            self.holder = Holder(**{**asdict(self.holder), "heartbeat": time.time()})
            _write(self.directory, self.holder)

    def release(self) -> None:
        """Give the lease back; nothing happens if it was lost."""
        if not self.directory.is_dir():
            return
        with _locked(self.directory):
            current = read_holder(self.directory)
            if current is not None and current.owner == self.holder.owner:
                (self.directory / "LEASE.json").unlink()


class HeldLeases:
    """The leases of this process, kept alive by one thread."""

    def __init__(self) -> None:
        self._leases: list[Lease] = []
        self._lock = threading.Lock()

    def add(self, lease: Lease) -> None:
        """Keep a lease alive from now on."""
        with self._lock:
            self._leases.append(lease)

    def remove(self, lease: Lease) -> None:
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
                except (LeaseLostError, OSError) as error:
                    # The manifest decides who wins, so the stage may go on; a full disk shows up at its commit.
                    # A lease that was given back in the meantime is none of these.
                    if any(held is lease for held in self._leases):
                        log.warning("heartbeat: %s", error)


def read_holder(directory: Path) -> Holder | None:
    """Who holds the lease, dead or alive; None when nobody does or the record is damaged."""
    try:
        return Holder(**json.loads((directory / "LEASE.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # Written by os.replace, so only a disk fault can damage it; taking over is safe.
        return None


def try_acquire(directory: Path) -> Lease | Holder:
    """Take the lease, from a dead holder too; returns the holder when one is alive."""
    directory.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    with _locked(directory):
        current = read_holder(directory)
        if current is not None and current.is_alive():
            return current
        holder = Holder(uuid.uuid4().hex, socket.gethostname(), pid, process_start(pid) or "", time.time())
        _write(directory, holder)
        return Lease(directory, holder)


def _write(directory: Path, holder: Holder) -> None:
    temporary = directory / f"LEASE.{holder.owner}.tmp"
    temporary.write_text(json.dumps(asdict(holder)))
    temporary.replace(directory / "LEASE.json")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Guard the read-then-write of a lease; the system drops the lock with the process."""
    with (directory / "LEASE.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
