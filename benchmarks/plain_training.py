"""A training loop written for comparison: what Trainer does in one process, the way the released script does it.

The text encoder runs in every step of every task, on raw prompts that are padded to the longest of the batch and on to
a multiple of 8. Latents are unpickled clip by clip; images may also come as pixels, which the VAE encodes one by one.
Noise, times, losses and loss bins are Python loops over samples, with numbers fetched one by one. Clips are grouped by
duration alone. The average follows every parameter on its own, and so does torch's AdamW.
"""

from __future__ import annotations

import copy
import pickle
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain_model import PlainNextDiT
from torch import Tensor

from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.prompt_length import MAX_TOKENS
from lumina.training.stage import TaskConfig, TrainStageConfig

VAE_SCALE = 1.15258426
BINS = 20
CLUSTER = 100
"""Batches within which clips of like duration come together."""


@dataclass(frozen=True)
class Item:
    """One clip, as the released annotations know it."""

    latent: Path
    """Pickle of {"latent": [C, F, H, W]}, the first frame of a video included."""
    pixels: Path | None
    """Pickle of {"pixels": [3, 1, H, W] in -1..1} of an image."""
    prompt: str
    """System prompt and caption."""
    system_prompt: str
    motion: float | None
    frames: int
    """What counts as the duration."""


def order(durations: Sequence[int], batch_size: int, seed: int) -> Iterator[int]:
    """Indices of clips without end: shuffled, and within a window of batches sorted by duration."""
    epoch = 0
    while True:
        rng = random.Random(seed + epoch)
        indices = list(range(len(durations)))
        rng.shuffle(indices)
        cache = list[int]()
        for start in range(0, len(indices), batch_size * CLUSTER):
            window = sorted(indices[start : start + batch_size * CLUSTER], key=lambda index: durations[index])
            batches = [window[at : at + batch_size] for at in range(0, len(window), batch_size)]
            rng.shuffle(batches)
            cache += [index for batch in batches for index in batch]
        while cache:
            yield cache.pop(0)
        epoch += 1


class PlainTrainer:
    """One process that trains all tasks of a stage.

    Args:
        config: the same stage as the other loop's.
        model: its initial weights, which are trained in place.
        items: the clips of each task.
        encoder: the text encoder.
        vae: diffusers' network for the images that come as pixels; None takes their latents.
    """

    def __init__(
        self,
        config: TrainStageConfig,
        model: MultiScaleNextDiT,
        items: Sequence[Sequence[Item]],
        encoder: TextEncoder,
        vae: Any,
    ) -> None:
        self.config, self.items, self.encoder, self.vae = config, items, encoder, vae
        self.model = model.train().requires_grad_(True)
        self.network = PlainNextDiT(self.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.lr, config.betas, config.eps, config.weight_decay
        )
        self.orders = [
            order([item.frames for item in of], task.batch_size, config.seed)
            for of, task in zip(items, config.tasks, strict=True)
        ]
        self.noise = torch.Generator().manual_seed(config.seed)
        self.rng = random.Random(config.seed)
        self.steps = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Seconds of each part of a step so far."""
        self.prompt_tokens, self.padded_tokens = 0, 0

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begun

    def step(self) -> None:
        """One optimizer step over the batches of every task."""
        for number, task in enumerate(self.config.tasks):
            for _ in range(task.batch_size // (task.micro_batch_size or task.batch_size)):
                self._accumulate(number, task)
        with self._timed("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip).item()
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate(self.steps)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        if self.steps % self.config.ema_every == 0:
            with self._timed("EMA"), torch.no_grad():
                live, decay = dict(self.model.named_parameters()), self.config.ema_decay
                for name, parameter in self.average.named_parameters():
                    parameter.mul_(decay).add_(live[name].data, alpha=1 - decay)

    def _accumulate(self, number: int, task: TaskConfig) -> None:
        with self._timed("data"):
            chosen = [next(self.orders[number]) for _ in range(task.micro_batch_size or task.batch_size)]
            samples = [self._load(self.items[number][index], task) for index in chosen]
            loaded, prompts, motion = zip(*samples, strict=True)
        with self._timed("VAE"):
            x_1 = [self._latent(x) for x in loaded]
        with self._timed("text"):
            features = self.encode(prompts)
        with self._timed("forward"):
            x_0 = [torch.randn(x.shape, generator=self.noise) for x in x_1]
            u = [torch.rand(1, generator=self.noise).item() for _ in x_1]
            t = [one / (one + task.time_shift - task.time_shift * one) for one in u]
            mse, direction = self.losses(x_1, x_0, t, features, list(motion), task)
            loss = (mse + self.config.vd_weight * direction).sum() / task.batch_size
            loss.item()
        with self._timed("backward"):
            loss.backward()
        with self._timed("metrics"):
            self._count(torch.tensor(t), mse.detach(), direction.detach())

    def _load(self, item: Item, task: TaskConfig) -> tuple[Tensor, str, float]:
        prompt = item.prompt if self.rng.random() < 1 - self.config.prompt_drop else item.system_prompt
        if task.media == "image":
            motion = 0.0 if self.rng.random() < self.config.image_still else -1.0
            if self.vae is not None and item.pixels is not None:
                return _unpickled(item.pixels)["pixels"], prompt, motion
            return _unpickled(item.latent)["latent"], prompt, motion
        dropped = self.rng.random() < self.config.motion_drop
        motion = -1.0 if dropped or item.motion is None else item.motion
        latent = _unpickled(item.latent)["latent"][:, 1:]
        frames = task.latent_frames or latent.shape[1]
        start = self.rng.randint(0, latent.shape[1] - frames)
        latent = latent[:, start : start + frames]
        return latent[:, : latent.shape[1] // task.patch[0] * task.patch[0]], prompt, motion

    @torch.no_grad()
    def _latent(self, x: Tensor) -> Tensor:
        return x if x.shape[0] != 3 or self.vae is None else self.vae.encode(x[None]).latent_dist.mode()[0] * VAE_SCALE

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features [L, D] of each prompt, encoded together."""
        tokens = self.encoder.tokenizer(
            list(prompts),
            padding=True,
            pad_to_multiple_of=8,
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        ids, mask = tokens.input_ids, tokens.attention_mask
        output = self.encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        self.prompt_tokens += int(mask.sum())
        self.padded_tokens += mask.numel()
        return [row[: int(kept.sum())] for row, kept in zip(output.hidden_states[-2], mask, strict=True)]

    def losses(
        self,
        x_1: Sequence[Tensor],
        x_0: Sequence[Tensor],
        t: Sequence[float],
        features: Sequence[Tensor],
        motion: Sequence[float],
        task: TaskConfig,
    ) -> tuple[Tensor, Tensor]:
        """Squared error and direction loss of each item, [N] each. The items have one shape."""
        x_t = [time * one + (1 - time) * noise for one, noise, time in zip(x_1, x_0, t, strict=True)]
        target = [one - noise for one, noise in zip(x_1, x_0, strict=True)]
        predicted = self.network(torch.stack(x_t), torch.tensor(t), features, torch.tensor(motion), task.patch)
        pairs = list(zip(predicted, target, strict=True))
        mse = torch.stack([(one - goal).square().mean() for one, goal in pairs])
        cosine = [torch.cosine_similarity(one.flatten(), goal.flatten(), dim=0) for one, goal in pairs]
        return mse, torch.stack([1 - value for value in cosine])

    def _count(self, t: Tensor, mse: Tensor, direction: Tensor) -> None:
        """Sum the losses of each bin of t, and fetch them."""
        bins = torch.bucketize(t, torch.linspace(0, 1, BINS + 1), right=True) - 1
        counts, sums, directions = torch.zeros(BINS), torch.zeros(BINS), torch.zeros(BINS)
        for index in range(BINS):
            mask = bins == index
            counts[index] = counts[index] + mask.sum()
            sums[index] = sums[index] + mse[mask].sum()
            directions[index] = directions[index] + direction[mask].sum()
        for index in range(BINS):
            if counts[index] > 0:
                (sums[index] / counts[index]).item()
                (directions[index] / counts[index]).item()


def _unpickled(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        found: dict[str, Tensor] = pickle.load(file)  # noqa: S301  # written by this benchmark
    return found
