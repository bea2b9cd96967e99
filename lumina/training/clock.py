"""How fast training goes: tokens, samples, operations, and the share of the time that the device waits for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lumina.training.metrics import over_workers
from lumina.training.workload import Batch


class StepClock:
    """What this worker did since the last report. Nothing in here waits for the device."""

    def __init__(
        self,
        flops: Callable[[Any], int],
        device: torch.device,
        peak: float | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start.

        Args:
            flops: operations of training on a micro-batch.
            device: where workers exchange their sums.
            peak: floating-point operations a second that one worker's device can do at the precision of the training;
                None where it is not known.
            now: seconds of a clock that never goes back.
        """
        self.flops = flops
        self.device = device
        self.peak = peak
        self._now = now
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, and count from now on: what was done in between was no training."""
        self._started = self._now()
        self._steps = 0
        # Tokens, samples, operations, seconds of waiting. Whole numbers are exact in float64 up to 2^53, and an error
        # of 1e-16 beyond is none.
        self._sums = [0.0, 0.0, 0.0, 0.0]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        begun = self._now()
        try:
            yield
        finally:
            self._sums[3] += self._now() - begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out: a validation or a checkpoint is no training step."""
        begun = self._now()
        try:
            yield
        finally:
            self._started += self._now() - begun

    def add(self, batch: Batch) -> None:
        """Count one micro-batch that this worker trained on."""
        self._sums[0] += batch.tokens
        self._sums[1] += len(batch.clip_ids)
        self._sums[2] += self.flops(batch)

    def add_step(self) -> None:
        """Count one optimizer step."""
        self._steps += 1

    def report(self) -> dict[str, float]:
        """Return the pace since the last report and start anew. Every worker must call it, after at least one step.

        tokens_per_second, samples_per_second: of all workers together.
        seconds_per_step: of this worker; all wait for the slowest.
        data_share: share of the time that a worker waited for data, in 0..1, the mean over workers.
        flops_per_second: per worker. Forward and backward pass count, what is computed again for lack of memory does
            not.
        flop_utilisation: the same over `peak`, in 0..1; left out without one.

        Raises:
            ValueError: no step was counted.
        """
        if not self._steps:
            raise ValueError("the clock has counted no step since the last report: there is no pace to tell")
        seconds = max(self._now() - self._started, 1e-9)
        own = torch.tensor([*self._sums, 1.0], dtype=torch.float64, device=self.device)
        tokens, samples, flops, waited, workers = over_workers(own).tolist()
        result = {
            "tokens_per_second": tokens / seconds,
            "samples_per_second": samples / seconds,
            "seconds_per_step": seconds / self._steps,
            "data_share": waited / workers / seconds,
            "flops_per_second": flops / workers / seconds,
        }
        if self.peak is not None:
            result["flop_utilisation"] = result["flops_per_second"] / self.peak
        self.restart()
        return result
