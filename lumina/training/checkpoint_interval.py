"""Checkpoint interval: when the next engine checkpoint is due, so that checkpoints take a bounded share of the time.

Without torch, so that a plan can tell the interval as well: `write_seconds` of a worker's share of the state, and the
`interval_seconds` that follow from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future

from lumina.training.loop_config import LoopConfig

WRITE_BYTES_PER_S = 0.5e9
"""Bytes of an engine checkpoint that a worker writes, reads again for the digest and flushes in a second, until a run
has measured its own: a guess for storage that other workers write to as well."""


def write_seconds(share_bytes: float) -> float:
    """Return the seconds that one worker is thought to take to write its share of a checkpoint."""
    return share_bytes / WRITE_BYTES_PER_S


def interval_seconds(taken: float, loop: LoopConfig) -> float:
    """Return the seconds between two checkpoints that go by time, where writing one takes `taken` seconds."""
    return max(loop.checkpoint_every_s, taken / loop.checkpoint_share)


class CheckpointInterval:
    """Counts down to the next checkpoint of one worker.

    Workers go by their own clocks and must still save at one step. So whoever looks at the clock says in how many steps
    to look again, all agree on the largest number, and nobody speaks in between.
    """

    def __init__(self, loop: LoopConfig, share_bytes: float, now: Callable[[], float] = time.monotonic) -> None:
        """Start now. `share_bytes` is the size of what this worker writes; `now` is a clock that never goes back."""
        self._loop = loop
        self._now = now
        self._taken = write_seconds(share_bytes)
        self._writing: tuple[float, Future[float]] | None = None
        self.restart(0)

    def restart(self, step: int) -> None:
        """Count from `step`, as a training does that begins or goes on with it."""
        self._begun, self._step = self._now(), step
        self.next_look = step + 1
        """Step at which all workers must know what `steps_left` says."""

    def saved(self, step: int, written: Future[float]) -> None:
        """Count from the checkpoint of `step`; `written` will hold the seconds that it took."""
        self.restart(step)
        self._writing = self._begun, written

    def steps_left(self, step: int) -> int:
        """Return after how many further steps to look again; 0 says that a checkpoint is due at `step`."""
        if self._loop.checkpoint_every is not None:
            return -step % self._loop.checkpoint_every
        passed = self._now() - self._begun
        left = interval_seconds(self._write_seconds(), self._loop) - passed
        if left <= 0:
            return 0
        # At the pace since the last one. Where steps have become faster, the next look is too early, and looks again.
        return max(1, math.ceil(left * (step - self._step) / passed)) if passed > 0 else 1

    def look_again(self, step: int, steps_left: int) -> None:
        """Have nobody look before `steps_left` further steps, as all workers agreed at `step`."""
        self.next_look = step + steps_left

    def _write_seconds(self) -> float:
        if self._writing is not None:
            begun, written = self._writing
            if not written.done():
                # It takes at least as long.
                return max(self._taken, self._now() - begun)
            self._taken, self._writing = written.result(), None
        return self._taken
