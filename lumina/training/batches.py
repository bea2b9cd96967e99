"""Which clips a step trains on: a pure function of the seed, the data and the step, and of nothing else.

Workers do not enter the plan: they only share out its batches, so one worker and eight train on the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from lumina.randomness import generator
from lumina.training.stage import TaskConfig


@dataclass(frozen=True)
class Entry:
    """What the plan must know about one clip."""

    clip_id: str
    source: str
    bucket: str
    """Clips of one bucket have one shape."""


@dataclass(frozen=True)
class Slot:
    """One sample of one global batch."""

    position: int
    """Place in the global batch. It is part of the address of the sample's random numbers, so that a clip that comes
    twice in one batch gets different noise."""
    index: int
    """Which entry of the plan."""


class BatchPlan:
    """The batches of one task, epoch after epoch, each epoch in an order of its own.

    A source with weight 1.5 appears in every epoch once with all its clips, and once more with half of them, drawn
    anew per epoch.
    """

    def __init__(self, task: TaskConfig, entries: Sequence[Entry], seed: int) -> None:
        """Plan over `entries`, in any order; raises ValueError if none is left to train on."""
        self.task = task
        self.seed = seed
        self.entries = sorted(entries, key=lambda entry: (entry.clip_id, entry.bucket))
        weights = task.source_weights or {}
        unknown = sorted(set(weights) - {entry.source for entry in self.entries})
        if unknown:
            raise ValueError(
                f"task {task.name}: source_weights names {', '.join(unknown)}, but no {task.media} is of that source"
            )
        self._groups = self._by_source(weights)
        self.epoch_size = sum(whole * len(members) + extra for members, whole, extra in self._groups)
        if self.epoch_size == 0:
            raise ValueError(f"task {task.name}: no {task.media} to train on; check the selection and source_weights")
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def batch(self, step: int) -> list[Slot]:
        """Return the global batch of optimizer step `step`, `task.batch_size` slots in order of position."""
        size = self.task.batch_size
        slots = []
        for position in range(size):
            epoch, offset = divmod(step * size + position, self.epoch_size)
            slots.append(Slot(position, int(self._order(epoch)[offset])))
        return slots

    def micro_batches(self, step: int, rank: int, world: int) -> list[list[Slot]]:
        """Return worker `rank`'s share of `batch(step)`, cut into its forward passes.

        Every worker gets as many passes, at least one sample in each. Samples are dealt out bucket by bucket, so that
        workers have like loads and a pass has like shapes.
        Raises ValueError if the batch has fewer samples than there are workers.
        """
        size = self.task.batch_size
        if size < world:
            raise ValueError(
                f"task {self.task.name}: batch_size {size} is smaller than the number of workers, {world}: "
                "raise batch_size or lower runtime.train_workers"
            )
        slots = sorted(self.batch(step), key=lambda slot: (self.entries[slot.index].bucket, slot.position))
        most = -(-size // world)
        passes = min(-(-most // (self.task.micro_batch_size or most)), size // world)
        mine = slots[rank::world]
        bounds = [len(mine) * i // passes for i in range(passes + 1)]
        return [mine[start:end] for start, end in pairwise(bounds)]

    def _by_source(self, weights: Mapping[str, float]) -> list[tuple[np.ndarray, int, int]]:
        """Return per source: its entries, how often all of them appear, and how many appear once more."""
        groups: dict[str, list[int]] = {}
        for index, entry in enumerate(self.entries):
            groups.setdefault(entry.source, []).append(index)
        result = []
        for source in sorted(groups):
            whole, part = divmod(weights.get(source, 1.0), 1)
            result.append((np.array(groups[source]), int(whole), round(part * len(groups[source]))))
        return result

    def _draw_order(self, epoch: int) -> np.ndarray:
        rng = generator(self.seed, "order", self.task.name, epoch)
        parts = []
        for members, whole, extra in self._groups:
            parts.append(np.tile(members, whole))
            if extra:
                parts.append(rng.permutation(members)[:extra])
        return rng.permutation(np.concatenate(parts))
