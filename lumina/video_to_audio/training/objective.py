"""The loss of one micro-batch of sounds: keyed latents, noise, times and drops, then the rectified flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina.flow_matching.path import Losses, interpolate, losses, shift_time, velocity
from lumina.randomness import generator
from lumina.training.times import draw_time
from lumina.video_to_audio.networks.dit import Media
from lumina.video_to_audio.training.dataset import SoundClip, SoundDataset
from lumina.video_to_audio.training.stage import SoundStageConfig, SoundTask


@dataclass(frozen=True, eq=False)
class SoundBatch:
    """What one forward pass trains on: N items, all latents and times float32."""

    clip_ids: tuple[str, ...]
    patch: tuple[int, int]
    x_1: tuple[Tensor, ...]
    """Standardised latent [C, T, R] of each item."""
    x_0: tuple[Tensor, ...]
    """Noise, shaped as x_1."""
    t: Tensor
    """[N] shifted times, 0 noise and 1 data."""
    media: tuple[Media, ...]
    """Features of each item, as they were encoded; None where withheld."""

    @property
    def tokens(self) -> int:
        """Tokens that the network sees."""
        return sum(x.shape[1] // self.patch[0] * (x.shape[2] // self.patch[1]) for x in self.x_1)

    def pinned(self) -> SoundBatch:
        """The same in page-locked memory, from which a GPU takes it while it computes."""
        return self._each(Tensor.pin_memory)

    def on(self, device: torch.device) -> SoundBatch:
        """The same on a device, which nobody waits for if it is `pinned`."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> SoundBatch:
        def known(x: Tensor | None) -> Tensor | None:
            return None if x is None else change(x)

        return replace(
            self,
            x_1=tuple(map(change, self.x_1)),
            x_0=tuple(map(change, self.x_0)),
            t=change(self.t),
            media=tuple(Media(known(one.visual), known(one.text), known(one.sync)) for one in self.media),
        )


class SoundObjective:
    """See `lumina.training.workload.Objective`."""

    def __init__(self, config: SoundStageConfig, dataset: SoundDataset, mean: Tensor, std: Tensor) -> None:
        """Draw as `config` says from the clips of `dataset`; `mean` and `std` [C] are those of the latents."""
        self.config = config
        self.dataset = dataset
        self.mean, self.std = (value.float().view(-1, 1, 1) for value in (mean, std))

    def micro_batch(self, step: int, task: SoundTask, items: Sequence[tuple[int, SoundClip]]) -> SoundBatch:
        """Draw one micro-batch; `items` are (place in the global batch, clip)."""
        config = self.config
        x_1, x_0, u, media = [], [], [], []
        for position, clip in items:
            address = (step, task.name, position, clip.clip_id)
            known = self.dataset.media(clip)
            seen, said = self._generator("drop", address).random(2)
            if seen < config.media_drop:
                known = Media(None, known.text, None)
            if said < config.text_drop:
                known = Media(known.visual, None, known.sync)
            data, noise = self.latent_and_noise(clip, *(self._generator(name, address) for name in ("latent", "noise")))
            x_1.append(data)
            x_0.append(noise)
            media.append(known)
            u.append(draw_time(self._generator("t", address), config.t_distribution))
        return self.batch([clip for _, clip in items], x_1, x_0, u, media)

    def latent_and_noise(
        self, clip: SoundClip, of_latent: np.random.Generator, of_noise: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """A standardised latent of a clip's posterior, and noise, each float32 [C, T, R]."""
        posterior = self.dataset.posterior(clip)
        shape = tuple(posterior.mean.shape)
        drawn, noise = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for rng in (of_latent, of_noise))
        return (posterior.mean + posterior.std * drawn - self.mean) / self.std, noise

    def batch(
        self,
        clips: Sequence[SoundClip],
        x_1: Sequence[Tensor],
        x_0: Sequence[Tensor],
        u: Sequence[float],
        media: Sequence[Media],
    ) -> SoundBatch:
        """Put together what was drawn; u are times before the shift."""
        return SoundBatch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            patch=self.config.model.patch,
            x_1=tuple(x_1),
            x_0=tuple(x_0),
            t=shift_time(torch.tensor(u, dtype=torch.float32), self.config.time_shift),
            media=tuple(media),
        )

    def losses(self, model: Any, batch: SoundBatch, dtype: torch.dtype, device: torch.device) -> Losses:
        """Run `model`, called as VideoToAudioDiT, in `dtype`; noise, times and losses stay float32."""
        batch = batch.on(device)
        t, noise, data = batch.t, batch.x_0, batch.x_1
        if len({x.shape for x in data}) == 1:
            x_0, x_1 = torch.stack(noise), torch.stack(data)
            predicted = model(interpolate(x_0, x_1, t).to(dtype), t, batch.media)
            return losses(predicted, velocity(x_0, x_1), self.config.vd_weight)
        points = [
            interpolate(x_0[None], x_1[None], time)[0].to(dtype)
            for x_0, x_1, time in zip(noise, data, t.split(1), strict=True)
        ]
        return losses(model(points, t, batch.media), list(map(velocity, noise, data)), self.config.vd_weight)

    def _generator(self, purpose: str, address: tuple[int | str, ...]) -> np.random.Generator:
        return generator(self.config.seed, purpose, *address)
