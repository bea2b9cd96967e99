"""When checkpoints are due: a bounded share of the time, at one step on all workers, or every so many steps."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.training.checkpoint_interval import (
    WRITE_BYTES_PER_S,
    CheckpointInterval,
    interval_seconds,
    write_seconds,
)
from lumina.training.loop_config import LoopConfig


@dataclass
class Worker:
    """One worker on a clock of its own, whose checkpoints take `writes` seconds beside the loop."""

    loop: LoopConfig
    writes: float
    pace: float
    share_bytes: float = 0.0
    now: float = 0.0
    saved: list[tuple[int, float]] = field(default_factory=list)
    looks: int = 0

    def __post_init__(self) -> None:
        self.interval = CheckpointInterval(self.loop, self.share_bytes, lambda: self.now)
        self.written: Future[float] | None = None

    def save(self, step: int) -> None:
        if self.written is not None and not self.written.done():
            self.now = self.saved[-1][1] + self.writes
            self.settle()
        self.saved.append((step, self.now))
        self.written = Future()
        self.interval.saved(step, self.written)

    def settle(self) -> None:
        """End the write whose time has come."""
        if self.written and not self.written.done() and self.now >= self.saved[-1][1] + self.writes:
            self.written.set_result(self.writes)


def _run(workers: list[Worker], steps: int) -> None:
    """As the trainer does: every worker computes a step, and all look when one does."""
    for step in range(1, steps + 1):
        end = max(worker.now + worker.pace for worker in workers)
        for worker in workers:
            worker.now = end
            worker.settle()
        looking = {step >= worker.interval.next_look for worker in workers}
        assert len(looking) == 1
        if looking == {True}:
            left = max(worker.interval.steps_left(step) for worker in workers)
            for worker in workers:
                worker.looks += 1
                worker.interval.look_again(step, left)
                if left == 0:
                    worker.save(step)


@given(
    writes=st.lists(st.floats(0.01, 200), min_size=1, max_size=3),
    pace=st.floats(0.01, 30),
    seconds=st.floats(0, 100),
    share=st.floats(0.005, 0.5),
    guess=st.floats(0, 100),
)
def test_writing_takes_no_more_than_its_share_on_any_worker(
    writes: list[float], pace: float, seconds: float, share: float, guess: float
) -> None:
    often = LoopConfig(checkpoint_every_s=seconds, checkpoint_share=share)
    size = guess * WRITE_BYTES_PER_S
    workers = [Worker(often, taken, pace, size) for taken in writes]
    _run(workers, 400)
    assert len({tuple(step for step, _ in worker.saved) for worker in workers}) == 1
    slowest = max(workers, key=lambda worker: worker.writes).saved
    for (_, one), (_, two) in pairwise(slowest):
        assert two - one >= max(seconds, max(writes) / share) - 1e-6
        # Nor later than it must be, but for a step.
        assert two - one <= max(seconds, max(writes) / share, guess / share) + 2 * pace + 1e-6
    if slowest:
        # The first by a guess from its size.
        assert slowest[0][1] >= interval_seconds(write_seconds(size), often) - 1e-6


def test_workers_speak_seldom() -> None:
    worker = Worker(LoopConfig(), writes=30, pace=0.5)
    _run([worker], 20_000)
    assert len(worker.saved) == 10
    assert worker.looks < 40


def test_steps_that_become_faster_bring_no_checkpoint_too_early() -> None:
    worker = Worker(LoopConfig(), writes=6, pace=30)
    _run([worker], 2)
    worker.pace = 0.1
    _run([worker], 1000)
    [(_, first)] = worker.saved[:1]
    assert first == pytest.approx(60, abs=30.2)


def test_a_number_of_steps_is_taken_as_it_is() -> None:
    worker = Worker(LoopConfig(checkpoint_every=7), writes=1e6, pace=1)
    worker.interval.restart(3)
    _run([worker], 30)
    assert [step for step, _ in worker.saved] == [7, 14, 21, 28]
