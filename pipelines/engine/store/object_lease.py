"""Leases in a bucket: the same record as on a file system, replaced only as it was last seen.

Hosts share no clock with a bucket, so who waits for another host watches its record: one that has not changed for the
time of expiry belongs to the dead.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field

from pipelines.engine.store import lease as leases
from pipelines.engine.store.bucket import Bucket, Record, Tag
from pipelines.engine.store.lease import HeldLease, Holder, lost
from pipelines.engine.store.typed import checked, parse
from pipelines.errors import StoreError

log = logging.getLogger(__name__)

Seen = dict[str, tuple[Tag, float]]
"""Key of a lease -> its version, and when this process first saw that."""


@dataclass
class ObjectLease:
    """A held lease: the bucket's, and the one of the working copy."""

    bucket: Bucket
    key: str
    holder: Holder
    tag: Tag
    local: HeldLease | None = None
    _beats: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Renew the heartbeat.

        Raises:
            LeaseLostError: somebody else holds the lease now.
            StoreError: the bucket cannot be reached.
        """
        with self._lock:
            self._beats += 1
            tag = self.bucket.replace(self.key, _text(self.holder, self._beats), self.tag)
            if tag is None:
                raise lost(self.bucket.name(self.key), read_holder(self.bucket, self.key))
            self.tag = tag
        if self.local is not None:
            self.local.refresh()

    def release(self) -> None:
        """Give the lease back; nothing happens if it was lost. Where it cannot be, it ends with this process."""
        try:
            with self._lock:
                current = self.bucket.read(self.key)
                if current is not None and _holder(current) == self.holder:
                    self.bucket.remove(self.key)
        except StoreError as error:
            log.warning("the lease stays until this process ends: %s", error)
        # Last, so that a sweep finds it after a crash.
        if self.local is not None:
            self.local.release()


def try_acquire(bucket: Bucket, key: str, seen: Seen) -> ObjectLease | Holder:
    """Take the lease, from a dead holder too; returns the holder when one may be alive.

    `seen` is what this process knows of the leases it waits for.
    """
    holder = Holder.me()
    while True:
        current = bucket.read(key)
        if current is None:
            tag = bucket.create(key, _text(holder, 0))
        elif (other := _holder(current)) is not None and _may_live(other, key, current, seen):
            return other
        else:
            tag = bucket.replace(key, _text(holder, 0), current.tag)
        if tag is not None:
            seen.pop(key, None)
            return ObjectLease(bucket, key, holder, tag)


def read_holder(bucket: Bucket, key: str) -> Holder | None:
    """Who holds the lease, dead or alive; None when nobody does or the record is damaged."""
    current = bucket.read(key)
    return None if current is None else _holder(current)


def _may_live(other: Holder, key: str, current: Record, seen: Seen) -> bool:
    if other.is_here:
        return other.is_alive()
    tag, since = seen.get(key, ({}, 0.0))
    if tag != current.tag:
        since = time.monotonic()
        seen[key] = (current.tag, since)
    return time.monotonic() - since < leases.EXPIRY_S


def _text(holder: Holder, beats: int) -> str:
    # The number makes each record another one: a bucket may name versions by their content.
    return json.dumps({**asdict(holder), "beats": beats})


def _holder(record: Record) -> Holder | None:
    try:
        return checked(Holder, {**parse(record.text), "heartbeat": record.modified})
    except (ValueError, TypeError):
        return None
