"""What a Trainer trains: a network, the batches of its tasks, their losses, and held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from lumina.flow_matching.path import Losses
from lumina.models.config import Recompute
from lumina.training.data.clips import TaskData
from lumina.training.resume import EngineCheckpoint
from lumina.training.stage import StageConfig


class Batch(Protocol):
    """What one forward pass of N items trains on."""

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """Of each item."""

    @property
    def t(self) -> Tensor:
        """[N] times, 0 noise and 1 data."""

    @property
    def tokens(self) -> int:
        """Tokens that the network sees."""

    def pinned(self) -> Self:
        """The same in page-locked memory, from which a GPU takes it while it computes."""

    def on(self, device: torch.device) -> Self:
        """The same on a device, which nobody waits for if it is `pinned`."""


class Objective(Protocol):
    """Everything random about a training step, and its loss.

    Each draw has an address, (purpose, step, task, place in the global batch, clip), so it depends neither on the
    worker that makes it nor on what was drawn before.
    """

    def micro_batch(self, step: int, task: Any, items: Sequence[tuple[int, Any]]) -> Any:
        """Draw one `Batch`; `items` are (place in the global batch, clip)."""

    def losses(self, model: Any, batch: Any, dtype: torch.dtype, device: torch.device) -> Losses:
        """Run `model` on a `Batch` in `dtype`; noise, times and losses stay float32."""


@dataclass(frozen=True)
class Sample:
    """A held-out clip as a task sees it at one time."""

    task: Any
    """See `lumina.training.data.batches.Task`."""
    clip: Any
    quantile: float
    """Of the times that the task trains on."""


class Workload(Protocol):
    """What training one kind of model differs by from training another."""

    @property
    def config(self) -> StageConfig:
        """The stage."""

    @property
    def objective(self) -> Objective:
        """Draws and losses."""

    @property
    def tasks(self) -> Sequence[TaskData[Any]]:
        """Those whose losses an optimizer step sums, in this order."""

    def model(self, init: Path | None, recompute: Recompute) -> nn.Module:
        """The float32 network as an engine takes it over: what requires gradients is trained.

        `init` is the directory of the weights that the stage starts from; None draws them by the stage's seed.
        `recompute` is for `lumina.models.blocks.BlockStack.checkpoint_blocks`.
        Raises ValueError if `init` holds another network than the stage's.
        """

    def flops(self, batch: Any) -> int:
        """Operations of training on a `Batch`, forward and backward, by arithmetic."""

    def held_out(self, clips: int) -> list[list[Sample]]:
        """What each forward pass of a validation sees, of up to `clips` clips of each group, in the same order always.

        Raises ValueError naming a clip that a task cannot take.
        """

    def held_out_batch(self, samples: Sequence[Sample]) -> Any:
        """The `Batch` of one such pass: its draws depend on clip, task and time alone."""

    def publish(self, checkpoint: EngineCheckpoint, init: Path | None, out: Path) -> None:
        """Write a checkpoint's weights to `out/transformer` and their average to `out/transformer_ema`."""
