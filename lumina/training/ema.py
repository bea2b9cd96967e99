"""Exponential moving average of float32 weights, on the shards that the optimizer holds anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Ema:
    """Average of float32 tensors, updated in place.

    With ZeRO each worker averages its own shard of the master weights, so the average costs 4 bytes per parameter over
    all workers together.
    """

    def __init__(self, masters: Sequence[Tensor], decay: float, warmup: bool) -> None:
        """Start from the current `masters`. With `warmup`, update n uses at most the decay (1 + n) / (10 + n)."""
        self.shards = [master.detach().clone() for master in masters]
        self.decay = decay
        self.warmup = warmup

    @torch.no_grad()
    def update(self, masters: Sequence[Tensor], number: int) -> None:
        """Move the average towards `masters`; `number` counts the updates from 0."""
        decay = min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay
        for shard, master in zip(self.shards, masters, strict=True):
            shard.lerp_(master, 1 - decay)

    @torch.no_grad()
    def restore(self, shards: Sequence[Tensor]) -> None:
        """Continue from saved shards."""
        for shard, saved in zip(self.shards, shards, strict=True):
            shard.copy_(saved)
