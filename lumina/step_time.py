"""Where the time of a training step goes besides arithmetic: exchange between workers, reading, and checkpoints.

Letters: Q trained parameters, W workers, b bytes of a number in the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lumina.training.checkpoint_interval import Often, interval_seconds, write_seconds

LATE = 0.03
"""Share of the time that writing checkpoints may take before it is told."""


@dataclass(frozen=True)
class Links:
    """How fast bytes travel, in bytes a second."""

    network: float = 50e9
    """Of each GPU to those of other nodes: 50 GB/s is a card of 400 Gb/s for each of eight GPUs. GPUs of one node have
    several times as much by NVLink."""
    storage: float = 2e9
    """Of the storage that all workers share, for all of them together: one NVMe disk, or a small file server."""


LINKS = Links()


@dataclass(frozen=True)
class Waiting:
    """Means over the steps of a stage, in seconds."""

    compute_s: float
    """Arithmetic of one step."""
    exchange_s: float
    """Gradients and weights that workers exchange for one step, if nothing of it hides behind arithmetic."""
    read_s: float
    """Samples of one step from the storage: read ahead, so that nothing waits while it is shorter than the step."""
    read_rate: float
    """Bytes a second that the storage has to deliver, so that no step waits."""
    checkpoint_s: float
    """One checkpoint, written, read again and hashed."""
    checkpoint_every_s: float
    """From one checkpoint to the next."""

    @property
    def step_s(self) -> float:
        """Seconds from step to step where the storage keeps up: arithmetic, then exchange."""
        return self.compute_s + self.exchange_s

    @property
    def waits_for_storage(self) -> bool:
        """Whether reading a step's samples takes longer than the step."""
        return self.read_s > self.step_s

    @property
    def checkpoint_share(self) -> float:
        """Share of the time in which a checkpoint is being written; 1 and more: the next waits for it."""
        return self.checkpoint_s / self.checkpoint_every_s


def exchange_bytes(trained: int, workers: int, bytes_per_number: int, zero_stage: int = 1, passes: int = 1) -> int:
    """Bytes that each worker sends for one step: (W - 1)/W times what follows, as rings do (Rajbhandari et al. 2020).

    ZeRO-1: an all-reduce of gradients, 2 b Q, and a gather of new weights, b Q. ZeRO-2: a reduction of gradients to
    their owners in every one of the step's `passes`, b Q each, and the gather.
    """
    reduced = 2 if zero_stage == 1 else passes
    return math.ceil((workers - 1) / workers * (reduced + 1) * bytes_per_number * trained)


def waiting(
    compute_s: float, exchanged: int, read: float, checkpoint: int, workers: int, links: Links, often: Often
) -> Waiting:
    """Divide bytes by rates.

    Args:
        compute_s: seconds of a step's arithmetic.
        exchanged: bytes that each worker sends for a step.
        read: bytes of a step's samples.
        checkpoint: bytes of one checkpoint, of all workers.
        workers: W.
        links: how fast bytes travel.
        often: when checkpoints are written.
    """
    exchange_s, read_s = exchanged / links.network, read / links.storage
    # A worker writes, reads again and hashes its share no faster; the storage has to take those of all.
    checkpoint_s = max(write_seconds(checkpoint / workers), checkpoint / links.storage)
    step_s = compute_s + exchange_s
    every_s = interval_seconds(checkpoint_s, often) if often.steps is None else often.steps * step_s
    return Waiting(compute_s, exchange_s, read_s, read / step_s, checkpoint_s, every_s)
