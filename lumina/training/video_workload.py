"""Training a text-to-video model: its network, tasks, losses, and held-out samples, as a Trainer wants them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from lumina.cost import training_cost
from lumina.flow_matching.path import shift_time
from lumina.models.config import NextDiTConfig, Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.randomness import generator
from lumina.training.data.clips import TaskData
from lumina.training.data.latents import Clip, LatentDataset
from lumina.training.objective import DROPPED, MicroBatch, Objective
from lumina.training.resume import EngineCheckpoint
from lumina.training.stage import TaskConfig, TrainStageConfig
from lumina.training.times import time_quantile
from lumina.training.validation import BATCH, QUANTILES, choose, chunks
from lumina.training.weights.publish import publish
from lumina.training.weights.start import trained_model
from lumina.training.workload import Sample

_training_cost = lru_cache(maxsize=1 << 14)(training_cost)


class VideoWorkload:
    """The workload of a stage config and a dataset; see `lumina.training.workload.Workload`."""

    def __init__(self, config: TrainStageConfig, dataset: LatentDataset) -> None:
        """Train as `config` says on the clips of `dataset`."""
        self.config = config
        self.dataset = dataset
        self.objective = Objective(config, dataset)

    @cached_property
    def tasks(self) -> list[TaskData[Clip]]:
        """The tasks of the stage. Raises ValueError if the data do not fit one of them."""
        return [self.dataset.of_task(task, self.config) for task in self.config.tasks]

    def model(self, init: Path | None, recompute: Recompute) -> MultiScaleNextDiT:
        """The network, with adapters where the stage trains those."""
        return trained_model(self.config, init, recompute)

    def flops(self, batch: MicroBatch) -> int:
        """Operations of training on a micro-batch."""
        return micro_batch_flops(self.config.model, batch)

    def held_out(self, clips: int) -> list[list[Sample]]:
        """Passes over clips of every source and media, each of one task and of windows of one size."""
        chosen = choose(self.dataset.heldout, clips, self.config.seed, lambda clip: (clip.source, clip.media))
        passes: list[list[Sample]] = []
        for task in self.config.tasks:
            groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
            for clip in chosen:
                if clip.media == task.media:
                    window = (_frames(task, clip), *clip.shape[2:])
                    groups[window] += [Sample(task, clip, quantile) for quantile in QUANTILES]
            for size in sorted(groups):
                passes += chunks(groups[size], _batch_size(task, size))
        return passes

    def held_out_batch(self, samples: Sequence[Sample]) -> MicroBatch:
        """The caption and the clip's own motion score are given unless training never gives them."""
        config, task = self.config, samples[0].task
        x_1, x_0 = [], []
        for sample in samples:
            data = self.dataset.latent(sample.clip)[:, : _frames(task, sample.clip)].float()
            rng = generator(config.seed, "validation", task.name, sample.clip.clip_id, str(sample.quantile))
            x_1.append(data)
            x_0.append(torch.from_numpy(rng.standard_normal(data.shape, dtype=np.float32)))
        clips = [sample.clip for sample in samples]
        u = [time_quantile(config.t_distribution, sample.quantile) for sample in samples]
        return MicroBatch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            patch=task.patch,
            x_1=tuple(x_1),
            x_0=tuple(x_0),
            t=shift_time(torch.tensor(u, dtype=torch.float32), task.time_shift),
            text=tuple(
                self.dataset.text(clip.text_id if config.prompt_drop < 1 else clip.text_id_dropped) for clip in clips
            ),
            motion=torch.tensor([_motion(config, clip) for clip in clips], dtype=torch.float32),
        )

    def publish(self, checkpoint: EngineCheckpoint, init: Path | None, out: Path) -> None:
        """Write weights, average, and adapters alone."""
        publish(self.config, checkpoint, init, out)


def micro_batch_flops(model: NextDiTConfig, batch: MicroBatch) -> int:
    """Return the operations of training on a micro-batch, by arithmetic: see `lumina.cost`."""
    return sum(
        _training_cost(model, (x.shape[1], x.shape[2], x.shape[3]), batch.patch, len(text))
        for x, text in zip(batch.x_1, batch.text, strict=True)
    )


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


def _motion(config: TrainStageConfig, clip: Clip) -> float:
    if clip.media == "image":
        return 0.0 if config.image_still > 0 else DROPPED
    return DROPPED if clip.motion_score is None or config.motion_drop == 1 else clip.motion_score
