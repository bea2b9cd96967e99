"""Where the time of a training step goes besides arithmetic: exchange between workers, reading, and checkpoints.

Letters: Q trained parameters, W workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lumina.training.checkpoint_interval import interval_seconds, write_seconds
from lumina.training.loop_config import LoopConfig

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
    """Gradients and weights that workers exchange for one step."""
    exposed_s: float
    """Of that, what is not beside a backward pass."""
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
        """Seconds from step to step where the storage keeps up: arithmetic, and exchange that is not beside it."""
        return self.compute_s + self.exposed_s

    @property
    def waits_for_storage(self) -> bool:
        """Whether reading a step's samples takes longer than the step."""
        return self.read_s > self.step_s

    @property
    def checkpoint_share(self) -> float:
        """Share of the time in which a checkpoint is being written; 1 and more: the next waits for it."""
        return self.checkpoint_s / self.checkpoint_every_s


@dataclass(frozen=True)
class Exchange:
    """What each worker sends for one step, in bytes."""

    reduced: int
    """Gradients, beside the backward pass."""
    gathered: int
    """New weights, when the step is done."""
    passes: int
    """Passes of the step, and how many of them gradients are reduced beside."""
    reducing: int


def exchange(
    trained: int, workers: int, gradient_bytes: int, weight_bytes: int, zero_stage: int = 1, passes: int = 1
) -> Exchange:
    """Bytes that each worker sends for one step: (W - 1)/W times what follows, as rings do (Rajbhandari et al. 2020).

    ZeRO-1: an all-reduce of gradients beside the last backward pass, twice their bytes. ZeRO-2: a reduction of
    gradients to their owners beside every one of the step's `passes`, their bytes each. Both: a gather of new weights.
    """
    others = (workers - 1) / workers * trained
    rounds, reducing = (2, 1) if zero_stage == 1 else (passes, passes)
    return Exchange(math.ceil(others * rounds * gradient_bytes), math.ceil(others * weight_bytes), passes, reducing)


def waiting(
    compute_s: float, sent: Exchange, read: float, checkpoint: int, workers: int, links: Links, loop: LoopConfig
) -> Waiting:
    """Divide bytes by rates.

    Args:
        compute_s: seconds of a step's arithmetic, two thirds of it in backward passes.
        sent: what each worker sends for a step.
        read: bytes of a step's samples.
        checkpoint: bytes of one checkpoint, of all workers.
        workers: W.
        links: how fast bytes travel.
        loop: when checkpoints are written.
    """
    reduce_s, gather_s = sent.reduced / links.network, sent.gathered / links.network
    beside_s = 2 / 3 * compute_s * sent.reducing / sent.passes
    exposed_s, read_s = max(0.0, reduce_s - beside_s) + gather_s, read / links.storage
    # A worker writes, reads again and hashes its share no faster; the storage has to take those of all.
    checkpoint_s = max(write_seconds(checkpoint / workers), checkpoint / links.storage)
    step_s = compute_s + exposed_s
    every_s = interval_seconds(checkpoint_s, loop) if loop.checkpoint_every is None else loop.checkpoint_every * step_s
    return Waiting(compute_s, reduce_s + gather_s, exposed_s, read_s, read / step_s, checkpoint_s, every_s)
