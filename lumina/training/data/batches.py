"""Which clips a step trains on: a pure function of the seed, the data and the step, and of nothing else.

Workers do not enter the plan: they only share out its batches, so one worker and eight train on the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, overload

import numpy as np

from lumina.randomness import generator
from lumina.training.data.balance import Samples, Shares, imbalance, share_out


class Task(Protocol):
    """What the plan must know about a task."""

    @property
    def name(self) -> str:
        """Part of the address of its order."""

    @property
    def media(self) -> str:
        """What it trains on, for messages."""

    @property
    def batch_size(self) -> int:
        """Samples per optimizer step, over all workers."""

    @property
    def micro_batch_size(self) -> int | None:
        """Samples per forward pass of one worker; None takes all."""

    @property
    def micro_batch_tokens(self) -> int | None:
        """Tokens per forward pass of one worker at most; None sets no bound."""

    @property
    def ratio(self) -> float:
        """Share of the optimizer steps that it takes part in."""

    @property
    def source_weights(self) -> Mapping[str, float] | None:
        """How often a clip of a source appears in an epoch, by source; 1 where it is not named."""

    def takes_part(self, step: int) -> bool:
        """Whether optimizer step `step`, counted from 0, trains on it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the plan must know of clips that are alike."""

    bucket: str
    """Clips of one bucket have one shape."""
    tokens: int
    """Tokens that the network sees of each, at least 1."""
    cost: float
    """Operations that each takes, more than 0."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the plan must know about one clip."""

    clip_id: str
    source: str
    bucket: str
    """See `Kind`."""
    tokens: int
    cost: float


@dataclass(frozen=True, eq=False)
class Entries(Sequence[Kind]):
    """What the plan must know about all clips, in order of (clip_id, bucket): a few bytes of each."""

    kinds: tuple[Kind, ...]
    kind: np.ndarray
    """[N] the kind of each."""
    sources: Mapping[str, np.ndarray]
    """Source -> the clips of it, in their order; none of them empty."""

    @staticmethod
    def of(entries: Iterable[Entry]) -> Entries:
        """Put together what comes one by one, in any order."""
        ordered = sorted(entries, key=lambda entry: (entry.clip_id, entry.bucket))
        kinds = {Kind(entry.bucket, entry.tokens, entry.cost): None for entry in ordered}
        code = {kind: number for number, kind in enumerate(kinds)}
        kind = np.array([code[Kind(entry.bucket, entry.tokens, entry.cost)] for entry in ordered], np.int32)
        names = sorted({entry.source for entry in ordered})
        rank = {name: number for number, name in enumerate(names)}
        return Entries(tuple(kinds), kind, by_source(np.array([rank[entry.source] for entry in ordered], int), names))

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: int) -> Kind: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Kind]: ...

    def __getitem__(self, index: int | slice) -> Kind | Sequence[Kind]:
        if isinstance(index, slice):
            return [self.kinds[kind] for kind in self.kind[index].tolist()]
        return self.kinds[self.kind[index]]


def by_source(source: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which clips each source has, in their order, where `source` is [N] numbers into its sorted `names`."""
    kind = np.int32 if len(source) <= np.iinfo(np.int32).max else np.int64
    order = np.argsort(source, kind="stable").astype(kind)
    ends = np.cumsum(np.bincount(source, minlength=len(names))).tolist()
    # Copies, since slices would keep all of them.
    return {
        name: order[start:end].copy() for name, start, end in zip(names, [0, *ends], ends, strict=False) if end > start
    }


@dataclass(frozen=True, slots=True)
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
    anew per epoch. Within windows of `cluster_batches` batches, clips of like cost and shape come together; the batch
    in which two epochs meet is left mixed.
    """

    def __init__(self, task: Task, entries: Entries | Iterable[Entry], seed: int, cluster_batches: int) -> None:
        """Plan over `entries`, which may come one by one in any order; ValueError if none is left to train on."""
        self.task = task
        self.seed = seed
        self.cluster_batches = cluster_batches
        self.entries = entries if isinstance(entries, Entries) else Entries.of(entries)
        weights = task.source_weights or {}
        unknown = sorted(set(weights) - set(self.entries.sources))
        if unknown:
            raise ValueError(
                f"task {task.name}: source_weights names {', '.join(unknown)}, but no {task.media} is of that source"
            )
        self._groups = self._by_source(weights)
        self.epoch_size = sum(whole * len(members) + extra for members, whole, extra in self._groups)
        if self.epoch_size == 0:
            raise ValueError(f"task {task.name}: no {task.media} to train on; check the selection and source_weights")
        kinds = self.entries.kinds
        buckets = {bucket: code for code, bucket in enumerate(sorted({kind.bucket for kind in kinds}))}
        # Of each kind.
        self._bucket = np.array([buckets[kind.bucket] for kind in kinds])
        self._cost = np.array([kind.cost for kind in kinds], np.float64)
        self._tokens = np.array([kind.tokens for kind in kinds], np.int64)
        self._likeness = _ranks(self._cost) * len(buckets) + self._bucket
        # An epoch, and the one it meets.
        self._order = lru_cache(maxsize=2)(self._draw_order)
        self._shares = lru_cache(maxsize=4)(self._share_out)

    def batch(self, step: int) -> list[Slot]:
        """Return the global batch of optimizer step `step`, `task.batch_size` slots in order of position.

        Steps in which the task takes no part use up no batch; do not ask for theirs.
        """
        return [Slot(position, index) for position, index in enumerate(self._indices(step).tolist())]

    def micro_batches(self, step: int, rank: int, world: int) -> list[list[Slot]]:
        """Return worker `rank`'s share of `batch(step)`, cut into its forward passes.

        Every worker gets as many passes, at least one sample in each, and about the same cost: see
        `lumina.training.data.balance.share_out`. Samples of a pass are in order of (bucket, position).
        Raises ValueError if the batch has fewer samples than there are workers.
        """
        size = self.task.batch_size
        if size < world:
            raise ValueError(
                f"task {self.task.name}: batch_size {size} is smaller than the number of workers, {world}: "
                "raise batch_size or lower runtime.train_workers"
            )
        indices = self._indices(step)
        return [
            [Slot(position, int(indices[position])) for position in passes]
            for passes in self._shares(step, world)[rank]
        ]

    def imbalance(self, step: int, world: int) -> float:
        """Return by which share of the mean cost the costliest of `world` workers lies above it at step `step`."""
        return imbalance(self._samples(step), self._shares(step, world))

    def _indices(self, step: int) -> np.ndarray:
        size = self.task.batch_size
        # The steps before this one in which the task took part.
        start = math.floor(step * self.task.ratio) * size
        pieces, have = [], 0
        while have < size:
            epoch, offset = divmod(start + have, self.epoch_size)
            order = self._order(epoch)
            if len(order) != self.epoch_size:
                raise AssertionError(
                    f"task {self.task.name}: the order of epoch {epoch} has {len(order)} clips, but an epoch "
                    f"{self.epoch_size}: a fault of the plan"
                )
            pieces.append(order[offset : offset + size - have])
            have += len(pieces[-1])
        return np.concatenate(pieces)

    def _samples(self, step: int) -> Samples:
        kinds = self.entries.kind[self._indices(step)]
        return Samples(self._cost[kinds], self._tokens[kinds], self._bucket[kinds])

    def _share_out(self, step: int, world: int) -> Shares:
        return share_out(self._samples(step), world, self.task.micro_batch_size, self.task.micro_batch_tokens)

    def _by_source(self, weights: Mapping[str, float]) -> list[tuple[np.ndarray, int, int]]:
        """Return per source: its entries, how often all of them appear, and how many appear once more."""
        result = []
        for source, members in self.entries.sources.items():
            whole, part = divmod(weights.get(source, 1.0), 1)
            result.append((members, int(whole), round(part * len(members))))
        return result

    def _draw_order(self, epoch: int) -> np.ndarray:
        rng = generator(self.seed, "order", self.task.name, epoch)
        parts = []
        for members, whole, extra in self._groups:
            parts.append(np.tile(members, whole))
            if extra:
                parts.append(rng.permutation(members)[:extra])
        return self._cluster(epoch, rng.permutation(np.concatenate(parts)))

    def _cluster(self, epoch: int, order: np.ndarray) -> np.ndarray:
        """Group the clips of each window of one epoch into batches of like ones, in random order."""
        if self.cluster_batches == 1:
            return order
        size = self.task.batch_size
        # The stream of epochs is cut into batches without regard to where an epoch begins.
        first = -epoch * self.epoch_size % size
        for window, start in enumerate(range(first, self.epoch_size, size * self.cluster_batches)):
            batches = min(self.cluster_batches, (self.epoch_size - start) // size)
            entries = order[start : start + batches * size]
            likeness = self._likeness[self.entries.kind[entries]]
            if batches < 2 or (likeness == likeness[0]).all():
                continue
            grouped = entries[np.argsort(likeness, kind="stable")].reshape(batches, size)
            rng = generator(self.seed, "cluster", self.task.name, epoch, window)
            order[start : start + batches * size] = rng.permutation(grouped).reshape(-1)
        return order


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return how many different values are smaller than each."""
    return np.unique(values, return_inverse=True)[1]
