"""Losses on held-out clips at fixed times: the same clips, noise and times at every look, on any number of workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from itertools import accumulate, islice
from statistics import fmean
from typing import Any, TypeVar

import torch

from lumina.randomness import generator
from lumina.training.metrics import over_workers
from lumina.training.workload import Sample, Workload

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times of every clip, as quantiles of the times that the task trains on: the middles of five equal parts, so that
their mean estimates the mean loss of training."""

BATCH = 16
"""Samples of a forward pass at most."""

One = TypeVar("One")


class Validation:
    """Looks at held-out clips, without a trace in the training: no draw of it depends on a step or on a worker."""

    def __init__(self, workload: Workload, clips: int, rank: int, world: int) -> None:
        """Choose up to `clips` held-out clips of every group, and deal their passes out to the workers.

        Raises ValueError as `Workload.held_out`.
        """
        self._workload = workload
        passes = workload.held_out(clips)
        self._samples = [sample for samples in passes for sample in samples]
        # (place of its first sample, samples): what one forward pass sees, whatever the number of workers.
        firsts = accumulate(map(len, passes), initial=0)
        self._mine = list(zip(firsts, passes, strict=False))[rank::world]

    def run(self, model: Any, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
        """Return the mean losses of `model`, called as in training, in `dtype`. Every worker must call it.

        `val/<task>/<source>`, `val/<task>` over all sources, and `val_t/<task>/<quantile>`; nothing where no clip was
        held out. Losses are those of training, with all that is known of a clip given unless training never gives it,
        and of a longer clip the first frames.
        """
        if not self._samples:
            return {}
        totals = torch.zeros(len(self._samples), dtype=torch.float64, device=device)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for first, samples in self._mine:
                    batch = self._workload.held_out_batch(samples)
                    losses = self._workload.objective.losses(model, batch, dtype, device)
                    totals[first : first + len(samples)] = losses.total.double()
        finally:
            model.train(training)
        # Each sample has a place of its own, so the sum over workers rounds nothing.
        values = over_workers(totals).tolist()
        groups: dict[str, list[float]] = defaultdict(list)
        for sample, value in zip(self._samples, values, strict=True):
            name = sample.task.name
            for key in (f"val/{name}/{sample.clip.source}", f"val/{name}", f"val_t/{name}/{sample.quantile}"):
                groups[key].append(value)
        return {key: fmean(groups[key]) for key in sorted(groups)}


def choose(clips: Sequence[One], count: int, seed: int, group_of: Callable[[One], tuple[str, ...]]) -> list[One]:
    """The first `count` of each group in an order drawn per clip, so that more data change few of them."""
    if not count:
        return []
    drawn: dict[tuple[str, ...], list[tuple[float, str, str, int]]] = defaultdict(list)
    for number, clip in enumerate(clips):
        group = drawn[group_of(clip)]
        group.append((_draw(clip, seed), clip.clip_id, clip.bucket, number))  # type: ignore[attr-defined]
        # Not all of millions at once.
        if len(group) > 2 * count + 64:
            group[:] = nsmallest(count, group)
    return [clips[number] for key in sorted(drawn) for *_, number in nsmallest(count, drawn[key])]


def chunks(samples: Iterable[Sample], size: int) -> Iterable[list[Sample]]:
    """Cut into passes of `size` samples."""
    rest = iter(samples)
    while part := list(islice(rest, size)):
        yield part


def _draw(clip: Any, seed: int) -> float:
    return float(generator(seed, "validation", "choice", clip.clip_id).random())
