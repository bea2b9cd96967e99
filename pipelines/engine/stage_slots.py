"""Whose turn it is to compute: a stage waits for one of the slots of its run, then for the lease that runs share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.engine.events import Display
from pipelines.engine.signals import StopSignal
from pipelines.engine.store.attempt import Attempt
from pipelines.engine.store.lease import HeldLeases, Holder, Lease
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.errors import LeaseLostError

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
        self.held = HeldLeases()
        self._computing: dict[str, Lease] = {}
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
                self._computing[stage] = attempt.lease
                self.held.add(attempt.lease)
                return attempt
            if str(attempt) != told:
                told = str(attempt)
                self._display.stage(stage, "waiting", f"for {told}, which computes the same")
            time.sleep(_WAIT_POLL_S)

    def lost(self) -> tuple[str, LeaseLostError] | None:
        """A stage that is computed here although somebody else may compute it now; None if there is none.

        At its commit no lease counts any more: the manifest decides.
        """
        found = dict(self._computing)
        return next(
            ((stage, error) for lease, error in self.held.lost for stage in found if found[stage] is lease), None
        )

    def drop(self, attempt: Attempt) -> None:
        """Give up an attempt and its lease."""
        self._computing = {stage: lease for stage, lease in self._computing.items() if lease is not attempt.lease}
        self.held.remove(attempt.lease)
        self._store.abandon(attempt)

    def commit(self, attempt: Attempt, manifest: Manifest) -> Manifest:
        """Finish an attempt; returns the manifest that counts, which is another's if that was quicker."""
        self._computing.pop(manifest.stage, None)
        try:
            kept = self._store.commit(attempt, manifest)
        except LeaseLostError:
            winner = self._store.lookup(manifest.stage, manifest.fingerprint)
            if winner is None:
                raise
            kept = winner
        self.held.remove(attempt.lease)
        return kept
