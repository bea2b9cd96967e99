"""Stage slots and leases of a run: a stage waits for a slot, then for the lease, which a heartbeat keeps alive."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.engine.events import Display
from pipelines.engine.signals import StopSignal
from pipelines.engine.store import lease as leases
from pipelines.engine.store.attempt import Attempt
from pipelines.engine.store.lease import Holder, Lease
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.errors import LeaseLostError, StoreError

log = logging.getLogger(__name__)

_WAIT_POLL_S = 0.5


class Turns:
    """The slots and leases of one run.

    Args:
        store: has the leases.
        display: shown what a stage waits for.
        stop: ends the waiting.
        max_parallel: slots.
    """

    def __init__(self, store: Store, display: Display, stop: StopSignal, max_parallel: int) -> None:
        # By stage; each changes in one step, so that no thread needs a lock.
        self._held: dict[str, Lease] = {}
        self._lost: dict[str, LeaseLostError] = {}
        self._committing: set[str] = set()
        self._store, self._display, self._stop = store, display, stop
        self._slots = threading.Semaphore(max_parallel)

    @contextmanager
    def slot(self, stage: str) -> Iterator[None]:
        """Have a slot for the length of the block.

        Raises:
            Stopped: the run is being stopped.
        """
        self._display.stage(stage, "waiting")
        while not self._slots.acquire(timeout=_WAIT_POLL_S):
            self._stop.check()
        try:
            yield
        finally:
            self._slots.release()

    def acquire(self, stage: str, fingerprint: str) -> Attempt:
        """Take the lease of a fingerprint, once nobody else has it.

        Raises:
            Stopped: the run is being stopped.
        """
        told = ""
        while True:
            self._stop.check()
            attempt = self._store.acquire(stage, fingerprint)
            if not isinstance(attempt, Holder):
                self._held[stage] = attempt.lease
                return attempt
            if str(attempt) != told:
                told = str(attempt)
                self._display.stage(stage, "waiting", f"for {told}, which computes the same")
            time.sleep(_WAIT_POLL_S)

    def lost(self) -> tuple[str, LeaseLostError] | None:
        """A stage that is computed here although somebody else may compute it now; None if there is none.

        At its commit no lease counts any more: the manifest decides.
        """
        for stage, error in self._lost.copy().items():
            if stage in self._held and stage not in self._committing:
                return stage, error
        return None

    def drop(self, stage: str, attempt: Attempt) -> None:
        """Give up an attempt and its lease."""
        self._held.pop(stage, None)
        self._store.abandon(attempt)

    def commit(self, attempt: Attempt, manifest: Manifest) -> Manifest:
        """Finish an attempt; returns the manifest that counts, which is another's if that was quicker."""
        self._committing.add(manifest.stage)
        try:
            kept = self._store.commit(attempt, manifest)
        except LeaseLostError:
            winner = self._store.lookup(manifest.stage, manifest.fingerprint)
            if winner is None:
                raise
            kept = winner
        self._held.pop(manifest.stage, None)
        return kept

    def release_all(self) -> None:
        """Give all leases back."""
        while self._held:
            self._held.popitem()[1].release()

    def beat(self, finished: threading.Event) -> None:
        """Keep the leases alive: body of the heartbeat thread."""
        while not finished.wait(leases.HEARTBEAT_S):
            for stage, lease in self._held.copy().items():
                try:
                    if stage not in self._lost:
                        lease.refresh()
                except LeaseLostError as error:
                    self._lost[stage] = error
                except (StoreError, OSError) as error:
                    # Whoever takes the lease over meanwhile shows up at the next beat; a full disk at the commit.
                    if stage in self._held:  # else it was given back in the meantime
                        log.warning("heartbeat: %s", error)
