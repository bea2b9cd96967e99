"""Leases: who is working on a stage. They save double work; correctness rests on the manifest alone.

A heartbeat renews LEASE.json, and its age tells who is dead (`Objects.age`): on a file system both times are of the
file server's clock, and who waits for a bucket watches the record. So hosts whose clocks differ agree.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from pipelines.engine.store.objects import Objects, Record, Tag
from pipelines.engine.store.typed import Number, Text, Whole, checked, parse
from pipelines.errors import LeaseLostError, StoreError

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0
RECORD = "LEASE.json"


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


@dataclass
class Lease:
    """A held lease."""

    objects: Objects
    key: str
    holder: Holder
    tag: Tag
    _beats: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Renew the heartbeat.

        Raises:
            LeaseLostError: somebody else holds the lease now, or it is gone.
            StoreError: the store cannot be reached or written.
        """
        with self._lock:
            self._beats += 1
            tag = self.objects.replace(self.key, _text(self.objects, self.holder, self._beats), self.tag)
            if tag is None:
                raise _lost(self.objects.name(self.key), read_holder(self.objects, self.key))
            self.tag = tag

    def release(self) -> None:
        """Give the lease back; nothing happens if it was lost. Where it cannot be, it ends with this process."""
        try:
            with self._lock:
                current = _read(self.objects, self.key)
                if current is not None and _holder(current) == self.holder:
                    self.objects.remove(self.key, current.tag)
        except StoreError as error:
            # What the lease was for has ended by now, well or not; that must not hide behind this.
            log.warning("the lease stays until this process ends: %s", error)


def try_acquire(objects: Objects, key: str = RECORD) -> Lease | Holder:
    """Take the lease, from a dead holder too. Returns the holder when one may be alive."""
    holder = Holder.me()
    while True:
        current = _read(objects, key)
        other = None if current is None else _holder(current)  # what is damaged has no holder
        if current is not None and other is not None:
            alive = other.is_alive() if other.is_here else objects.age(key, current) < EXPIRY_S
            if alive:
                return other
        tag = objects.replace(key, _text(objects, holder, 0), None if current is None else current.tag)
        if tag is not None:
            return Lease(objects, key, holder, tag)


@contextmanager
def holding(objects: Objects, key: str) -> Iterator[Holder | None]:
    """Have a lease while the block runs, renewed now and then.

    Yields None, or whoever has it and is alive: then the block runs without. A holder of another machine is watched
    until its heartbeat tells, for a minute at most.
    """
    lease = _acquired(objects, key)
    if isinstance(lease, Holder):
        yield lease
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                lease.refresh()
            except LeaseLostError as error:
                log.warning("%s", error)
                return
            except (StoreError, OSError) as error:
                log.warning("heartbeat: %s", error)  # whoever takes it over meanwhile shows up at the next beat

    thread = threading.Thread(target=beat, name=f"heartbeat {key}", daemon=True)
    thread.start()
    try:
        yield None
    finally:
        ended.set()
        thread.join()
        lease.release()


def _acquired(objects: Objects, key: str) -> Lease | Holder:
    """The lease, or who has it and is alive."""
    # How old a record in a bucket is, no process knows that has just come: only its renewal tells that its host lives.
    seen = _version(objects, key)
    lease = try_acquire(objects, key)
    if isinstance(lease, Holder) and not lease.is_here:
        log.warning("%s: %s may have it still; waiting %.0f s at most", objects.name(key), lease, EXPIRY_S)
    while isinstance(lease, Holder) and not lease.is_here and _version(objects, key) in (seen, None):
        time.sleep(HEARTBEAT_S / 5)
        lease = try_acquire(objects, key)
    return lease


def _version(objects: Objects, key: str) -> tuple[Tag, float] | None:
    current = _read(objects, key)
    return None if current is None else (current.tag, current.modified)


def read_holder(objects: Objects, key: str = RECORD) -> Holder | None:
    """Who holds the lease, dead or alive; None when nobody does or the record is damaged."""
    current = _read(objects, key)
    return None if current is None else _holder(current)


def _lost(record: str, now: Holder | None) -> LeaseLostError:
    if now is None:
        return LeaseLostError(f"{record} is gone or was overwritten, so another runner may compute the same")
    return LeaseLostError(f"{now} has taken the lease {record} over, and computes the same")


def _read(objects: Objects, key: str) -> Record | None:
    try:
        return objects.read(key)
    except ValueError:
        return Record("", {}, 0.0)


def _text(objects: Objects, holder: Holder, beats: int) -> str:
    record = asdict(holder)
    del record["heartbeat"]
    return json.dumps(record if objects.stamps else {**record, "beats": beats})


def _holder(record: Record) -> Holder | None:
    try:
        return checked(Holder, {**parse(record.text), "heartbeat": record.modified})
    except (ValueError, TypeError):
        return None
