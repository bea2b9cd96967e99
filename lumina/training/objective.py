"""The loss of one micro-batch: keyed noise, times and drops, then flow matching (paper Eq. 2-6, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina.flow_matching.path import Losses, interpolate, losses, shift_time, velocity
from lumina.models.config import PatchSize
from lumina.randomness import generator
from lumina.training.data.latents import Clip, LatentDataset
from lumina.training.stage import TaskConfig, TrainStageConfig
from lumina.training.times import draw_time

DROPPED = -1.0
"""Motion score that the model reads as "not given"."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one forward pass trains on: N items, all numbers float32."""

    clip_ids: tuple[str, ...]
    patch: PatchSize
    x_1: tuple[Tensor, ...]
    """Data [C, F, H, W] of each item."""
    x_0: tuple[Tensor, ...]
    """Noise, shaped as x_1."""
    t: Tensor
    """[N] shifted times, 0 noise and 1 data."""
    text: tuple[Tensor, ...]
    """Text features [L, D] of each item, as they were encoded."""
    motion: Tensor
    """[N] motion scores, `DROPPED` where withheld."""

    @property
    def tokens(self) -> int:
        """Tokens that the network sees."""
        return sum(math.prod(x.shape[1:]) for x in self.x_1) // math.prod(self.patch)

    def pinned(self) -> MicroBatch:
        """The same in page-locked memory, from which a GPU takes it while it computes."""
        return self._each(Tensor.pin_memory)

    def on(self, device: torch.device) -> MicroBatch:
        """The same on a device, which nobody waits for if it is `pinned`."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        parts: dict[str, Any] = {name: tuple(map(change, getattr(self, name))) for name in ("x_1", "x_0", "text")}
        return replace(self, **parts, t=change(self.t), motion=change(self.motion))


class Objective:
    """Everything random about a training step, and its loss.

    Each draw has an address, (purpose, step, task, place in the global batch, clip), so it depends neither on the
    worker that makes it nor on what was drawn before.
    """

    def __init__(self, config: TrainStageConfig, dataset: LatentDataset) -> None:
        """Draw as `config` says, from the clips of `dataset`."""
        self.config = config
        self.dataset = dataset

    def micro_batch(self, step: int, task: TaskConfig, items: Sequence[tuple[int, Clip]]) -> MicroBatch:
        """Draw one micro-batch; `items` are (place in the global batch, clip)."""
        x_1, x_0, text, u, motion = [], [], [], [], []
        for position, clip in items:
            address = (step, task.name, position, clip.clip_id)
            data = self._window(self.dataset.latent(clip), task, address).float()
            noise = self._generator("noise", address).standard_normal(data.shape, dtype=np.float32)
            drops = self._generator("drop", address).random(2)
            dropped = drops[0] < self.config.prompt_drop
            x_1.append(data)
            x_0.append(torch.from_numpy(noise))
            text.append(self.dataset.text(clip.text_id_dropped if dropped else clip.text_id))
            motion.append(self._motion(clip, float(drops[1])))
            u.append(draw_time(self._generator("t", address), self.config.t_distribution))
        return MicroBatch(
            clip_ids=tuple(clip.clip_id for _, clip in items),
            patch=task.patch,
            x_1=tuple(x_1),
            x_0=tuple(x_0),
            t=shift_time(torch.tensor(u, dtype=torch.float32), task.time_shift),
            text=tuple(text),
            motion=torch.tensor(motion, dtype=torch.float32),
        )

    def losses(self, model: Any, batch: MicroBatch, dtype: torch.dtype, device: torch.device) -> Losses:
        """Run `model`, called as MultiScaleNextDiT, in `dtype`; noise, times and losses stay float32."""
        batch = batch.on(device)
        t, motion, noise, data = batch.t, batch.motion, batch.x_0, batch.x_1
        text = [features.to(dtype) for features in batch.text]
        if len({x_1.shape for x_1 in data}) == 1:
            x_0, x_1 = torch.stack(noise), torch.stack(data)
            x_t = interpolate(x_0, x_1, t)
            predicted = model(x_t.to(dtype), t, text, motion, batch.patch)
            return losses(predicted, velocity(x_0, x_1), self.config.vd_weight)
        points = [
            interpolate(x_0[None], x_1[None], time)[0].to(dtype)
            for x_0, x_1, time in zip(noise, data, t.split(1), strict=True)
        ]
        predicted = model(points, t, text, motion, batch.patch)
        return losses(predicted, list(map(velocity, noise, data)), self.config.vd_weight)

    def _generator(self, purpose: str, address: tuple[int | str, ...]) -> np.random.Generator:
        return generator(self.config.seed, purpose, *address)

    def _window(self, latent: Tensor, task: TaskConfig, address: tuple[int | str, ...]) -> Tensor:
        """Cut [C, F, H, W] to the task's frames: a random window where the clip is longer."""
        have = latent.shape[1]
        frames = task.latent_frames or have - have % task.patch[0]
        if frames == have:
            return latent
        start = int(self._generator("window", address).integers(have - frames + 1))
        return latent[:, start : start + frames]

    def _motion(self, clip: Clip, draw: float) -> float:
        if clip.media == "image":
            return 0.0 if draw < self.config.image_still else DROPPED
        return DROPPED if clip.motion_score is None or draw < self.config.motion_drop else clip.motion_score
