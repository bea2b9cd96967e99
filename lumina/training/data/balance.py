"""Share out the samples of one batch among workers and forward passes, so that all have about as much to do.

A step takes as long as its slowest worker, and no sample is ever padded: what is equal is the cost, not the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import pairwise

import numpy as np

NEAR = 0.02
"""Costs that differ by less than this share count as equal: among them, shapes decide who gets what."""

Shares = list[list[list[int]]]
"""[worker][pass][...] positions in the batch."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The batch, each [B], in order of position."""

    cost: np.ndarray
    """Operations, more than 0."""
    tokens: np.ndarray
    shape: np.ndarray
    """Equal integers for equal shapes."""


@dataclass(frozen=True)
class _Class:
    """Samples of like cost."""

    members: np.ndarray
    """Positions, shape by shape."""
    cost: float
    """Of the largest."""
    tokens: int
    """Of the largest."""


def share_out(samples: Samples, world: int, most_samples: int | None, most_tokens: int | None) -> Shares:
    """Return the share of each of `world` workers, cut into passes: as many for each worker, none of them empty.

    A pass has at most `most_samples` samples and `most_tokens` tokens (None: no bound); a sample with more tokens is
    alone in its pass. There are as few passes as that needs. Where workers' shares cannot be of one count and the
    bounds would leave some worker a pass without a sample, some passes take one sample more than the bounds allow.
    A position is in exactly one pass; within a pass samples are in order of (shape, position).
    Raises ValueError if there are fewer samples than workers.
    """
    count = len(samples.cost)
    if count < world:
        raise ValueError(f"a batch of {count} samples cannot be shared out among {world} workers")
    classes = _classes(samples)
    bins, taken = _fill_bins(classes, samples, world, most_samples, most_tokens)
    dealt = _deal(classes, taken, samples.shape)
    loads = np.bincount(dealt, weights=samples.cost, minlength=bins)
    order = np.lexsort((np.arange(count), samples.shape, dealt))
    members = np.split(order, np.cumsum(np.bincount(dealt, minlength=bins))[:-1])
    # Passes of like cost at the same time, and the larger of them to the worker that has had least.
    ranked = np.argsort(-loads, kind="stable").tolist()
    sums, shares = [0.0] * world, [list[list[int]]() for _ in range(world)]
    for start in range(0, bins, world):
        free = sorted(range(world), key=lambda worker: (sums[worker], worker))
        for number, worker in zip(ranked[start : start + world], free, strict=True):
            sums[worker] += float(loads[number])
            shares[worker].append(members[number].tolist())
    return shares


def imbalance(samples: Samples, shares: Shares) -> float:
    """Return the cost of the worker that has most, over the mean, minus 1."""
    sums = [float(samples.cost[[position for passes in share for position in passes]].sum()) for share in shares]
    return max(sums) * len(sums) / sum(sums) - 1


def _classes(samples: Samples) -> list[_Class]:
    """Group samples of like cost, the costliest first."""
    order = np.lexsort((np.arange(len(samples.cost)), samples.shape, -samples.cost))
    values, firsts = np.unique(-samples.cost[order], return_index=True)
    starts, largest = [], np.inf
    for value, first in zip((-values).tolist(), firsts.tolist(), strict=True):
        if value < largest * (1 - NEAR):
            starts.append(first)
            largest = value
    result = []
    for members in np.split(order, starts[1:]):
        by_shape = members[np.lexsort((members, samples.shape[members]))]
        result.append(_Class(by_shape, float(samples.cost[members[0]]), int(samples.tokens[members].max())))
    return result


def _fill_bins(
    classes: Sequence[_Class], samples: Samples, world: int, most_samples: int | None, most_tokens: int | None
) -> tuple[int, list[list[int]]]:
    """Return the number of bins, `world` times the fewest passes, and how many samples of each class each bin takes."""
    count = len(samples.cost)
    most = -(-count // world)
    passes, limit = min(-(-most // (most_samples or most)), count // world), count // world
    if most_tokens is not None:
        alone = 2 * samples.tokens > most_tokens
        needed = max(int(alone.sum()), -(-int(np.minimum(samples.tokens, most_tokens).sum()) // most_tokens))
        passes = min(max(passes, -(-needed // world)), limit)
    for number in range(passes, limit + 1):
        bins = number * world
        room = count if most_samples is None else max(most_samples, -(-count // bins))
        taken = _fill(classes, bins, room, most_tokens)
        if taken is not None:
            return bins, taken
    bins = limit * world
    taken = _fill(classes, bins, -(-count // bins), None)
    if taken is None:
        raise AssertionError("without a bound on tokens every batch fits")
    return bins, taken


def _fill(classes: Sequence[_Class], bins: int, room: int, most_tokens: int | None) -> list[list[int]] | None:
    """Give each sample, the costliest first, to the bin that has least; None if some sample fits nowhere."""
    heap = [(0.0, number) for number in range(bins)]
    counts, tokens = [0] * bins, [0] * bins
    taken = []
    for group in classes:
        of_class, aside = [0] * bins, []
        for _ in group.members:
            while heap:
                load, number = heap[0]
                if most_tokens is None or not counts[number] or tokens[number] + group.tokens <= most_tokens:
                    break
                aside.append(heappop(heap))
            else:
                return None
            of_class[number] += 1
            counts[number] += 1
            tokens[number] += group.tokens
            if counts[number] == room:
                heappop(heap)
            else:
                heapreplace(heap, (load + group.cost, number))
        taken.append(of_class)
        # Smaller samples may still fit.
        for item in aside:
            heappush(heap, item)
    return taken


def _deal(classes: Sequence[_Class], taken: Sequence[Sequence[int]], shape: np.ndarray) -> np.ndarray:
    """Return the bin of each position: few shapes in a bin, and samples of one shape in turn."""
    dealt = np.empty(len(shape), np.int64)
    for group, of_class in zip(classes, taken, strict=True):
        bins = np.repeat(np.arange(len(of_class)), of_class)
        shapes = shape[group.members]
        bounds = [0, *(np.flatnonzero(np.diff(shapes)) + 1).tolist(), len(shapes)]
        for start, end in pairwise(bounds):
            some = bins[start:end]
            turn = np.arange(end - start) - np.searchsorted(some, some)
            dealt[group.members[start:end]] = some[np.lexsort((some, turn))]
    return dealt
