"""Losses on held-out clips at fixed times: the same clips, noise and times at every look, on any number of workers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
import torch

from lumina.flow_matching.path import shift_time
from lumina.randomness import generator
from lumina.training.data.latents import Clip, LatentDataset
from lumina.training.metrics import over_workers
from lumina.training.objective import DROPPED, MicroBatch, Objective
from lumina.training.stage import TaskConfig, TrainStageConfig

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times of every clip, as quantiles of the times that the task trains on: the middles of five equal parts, so that
their mean estimates the mean loss of training."""

BATCH = 16
"""Samples of a forward pass at most."""


@dataclass(frozen=True)
class _Sample:
    task: TaskConfig
    clip: Clip
    quantile: float


class Validation:
    """Looks at held-out clips, without a trace in the training: no draw of it depends on a step or on a worker."""

    def __init__(
        self, config: TrainStageConfig, dataset: LatentDataset, clips_per_source: int, rank: int, world: int
    ) -> None:
        """Choose up to `clips_per_source` held-out clips of every source and media, and deal them out to the workers.

        Raises ValueError naming a clip that the patch size of a task cannot cut.
        """
        self.config = config
        self.dataset = dataset
        self._objective = Objective(config, dataset)
        chosen = _choose(dataset.heldout, clips_per_source, config.seed)
        self._samples: list[_Sample] = []
        # (place of its first sample, samples): what one forward pass sees, whatever the number of workers.
        batches: list[tuple[int, list[_Sample]]] = []
        for task in config.tasks:
            groups: dict[tuple[int, ...], list[_Sample]] = defaultdict(list)
            for clip in chosen:
                if clip.media == task.media:
                    window = (_frames(task, clip), *clip.shape[2:])
                    groups[window] += [_Sample(task, clip, quantile) for quantile in QUANTILES]
            for size in sorted(groups):
                for part in _chunks(groups[size], _batch_size(task, size)):
                    batches.append((len(self._samples), part))
                    self._samples += part
        self._mine = batches[rank::world]

    def run(self, model: Any, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
        """Return the mean losses of `model`, called as MultiScaleNextDiT, in `dtype`. Every worker must call it.

        `val/<task>/<source>`, `val/<task>` over all sources, and `val_t/<task>/<quantile>`; nothing where no clip was
        held out. Losses are those of training, with the caption and the clip's own motion score always given unless
        training never gives them, and of a longer clip the first frames.
        """
        if not self._samples:
            return {}
        totals = torch.zeros(len(self._samples), dtype=torch.float64, device=device)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for first, samples in self._mine:
                    losses = self._objective.losses(model, self._micro_batch(samples), dtype, device)
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

    def _micro_batch(self, samples: Sequence[_Sample]) -> MicroBatch:
        config, task = self.config, samples[0].task
        x_1, x_0 = [], []
        for sample in samples:
            data = self.dataset.latent(sample.clip)[:, : _frames(task, sample.clip)].float()
            rng = generator(config.seed, "validation", task.name, sample.clip.clip_id, str(sample.quantile))
            x_1.append(data)
            x_0.append(torch.from_numpy(rng.standard_normal(data.shape, dtype=np.float32)))
        clips = [sample.clip for sample in samples]
        u = torch.tensor([_quantile(config, sample.quantile) for sample in samples], dtype=torch.float32)
        return MicroBatch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            patch=task.patch,
            x_1=tuple(x_1),
            x_0=tuple(x_0),
            t=shift_time(u, task.time_shift),
            text=tuple(
                self.dataset.text(clip.text_id if config.prompt_drop < 1 else clip.text_id_dropped) for clip in clips
            ),
            motion=torch.tensor([_motion(config, clip) for clip in clips], dtype=torch.float32),
        )


def _choose(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """The first `count` of each source and media in an order drawn per clip, so that more data change few of them."""
    if not count:
        return []
    drawn: dict[tuple[str, str], list[tuple[float, str, str, int]]] = defaultdict(list)
    for number, clip in enumerate(clips):
        group = drawn[clip.source, clip.media]
        group.append((_draw(clip, seed), clip.clip_id, clip.bucket, number))
        # Not all of millions at once.
        if len(group) > 2 * count + 64:
            group[:] = nsmallest(count, group)
    return [clips[number] for key in sorted(drawn) for *_, number in nsmallest(count, drawn[key])]


def _draw(clip: Clip, seed: int) -> float:
    return float(generator(seed, "validation", "choice", clip.clip_id).random())


def _frames(task: TaskConfig, clip: Clip) -> int:
    """Latent frames of the window. Raises ValueError if the task cannot cut the clip."""
    frames, rows, columns = task.patch
    have = clip.shape[1]
    wanted = task.latent_frames or have - have % frames
    if clip.shape[2] % rows or clip.shape[3] % columns or not 0 < wanted <= have:
        raise ValueError(
            f"task {task.name}: held-out clip {clip.clip_id} of bucket {clip.bucket} has {have} latent frames of "
            f"{clip.shape[2]}x{clip.shape[3]} after the first is dropped, but the task needs "
            f"{task.latent_frames or frames} frames, and rows and columns that {rows} and {columns} divide: choose "
            "another bucket"
        )
    return wanted


def _batch_size(task: TaskConfig, size: tuple[int, ...]) -> int:
    """Samples of a forward pass over latents of `size`: no more than a pass of the training."""
    most = min(task.micro_batch_size or BATCH, BATCH)
    if task.micro_batch_tokens is None:
        return most
    tokens = math.prod(size) // math.prod(task.patch)
    return max(1, min(most, task.micro_batch_tokens // tokens))


def _chunks(samples: list[_Sample], size: int) -> Iterable[list[_Sample]]:
    rest = iter(samples)
    while part := list(islice(rest, size)):
        yield part


def _quantile(config: TrainStageConfig, q: float) -> float:
    """Quantile of u, the time before the shift."""
    if config.t_distribution == "uniform":
        return q
    return float(1 / (1 + np.exp(-NormalDist().inv_cdf(q))))


def _motion(config: TrainStageConfig, clip: Clip) -> float:
    if clip.media == "image":
        return 0.0 if config.image_still > 0 else DROPPED
    return DROPPED if clip.motion_score is None or config.motion_drop == 1 else clip.motion_score
