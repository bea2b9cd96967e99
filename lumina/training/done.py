"""Losses and gradient norm of a done step, and whether they are finite: known to the host when it asks, not before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class TrainingStoppedError(RuntimeError):
    """Training cannot go on, and a restart would end at the same place."""


class Done:
    """One optimizer step that the host has sent to the device, which need not have computed it yet."""

    def __init__(self, step: int, seen: Sequence[tuple[str, tuple[str, ...], Tensor]], norm: Tensor) -> None:
        """Keep what an error message needs: task, clips and losses [N] of each pass, and the gradient's norm."""
        self._step = step
        self._seen = seen
        self._norm = norm
        values = [loss.sum() for _, _, loss in seen]
        finite = torch.isfinite(torch.stack([*values, norm])).all() & (norm >= 0)
        self._finite = finite.to("cpu", non_blocking=True)
        self._known = torch.cuda.Event() if finite.is_cuda else None
        if self._known is not None:
            self._known.record()

    def check(self, rank: int) -> None:
        """Wait until the device has done the step. Raises TrainingStoppedError about what is not finite."""
        if self._known is not None:
            self._known.synchronize()
        if self._finite.item():
            return
        if self._norm == -1:
            raise TrainingStoppedError(
                f"step {self._step}: the backward passes of the workers came by their layers in different orders, and "
                "gradients of different layers were added up: train with compile: false, or with one worker"
            )
        for task, clip_ids, loss in self._seen:
            bad = [clip for clip, value in zip(clip_ids, loss.tolist(), strict=True) if not math.isfinite(value)]
            if bad:
                raise TrainingStoppedError(
                    f"step {self._step}, task {task}: the loss of clip {', '.join(bad)} is not finite. Look at these "
                    "latents, or lower lr"
                )
        clips = ", ".join(f"{task}: {' '.join(clip_ids)}" for task, clip_ids, _ in self._seen)
        raise TrainingStoppedError(
            f"step {self._step}: the gradient norm is {float(self._norm)} with finite losses on worker {rank} "
            f"({clips}). Lower lr, or look at the other workers' errors"
        )
