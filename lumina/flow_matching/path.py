"""The straight path from noise to data: times, points, velocities and losses (paper sections 3.1.3 and A.1,
Eq. 2-6).

x_0 is noise, x_1 is data, t runs from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_FLOOR = 1e-8
"""Smallest norm in the direction loss."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of N items, each [N] float32."""

    total: Tensor
    """task + vd_weight * direction."""
    task: Tensor
    """Mean squared error of the velocity."""
    direction: Tensor
    """1 - cosine of predicted and true velocity, in 0..2."""


def shift_time(u: Tensor, shift: float | None) -> Tensor:
    """Scale-aware time shift t = u / (u + shift - shift u): a larger shift gives noisier t (paper Eq. 2).

    Args:
        u: any shape, in 0..1.
        shift: above 0; None or 1 leaves u.
    """
    if shift is None:
        return u
    return u / (u + shift - shift * u)


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """x_t = t x_1 + (1 - t) x_0 (paper Eq. 4).

    Args:
        x_0: [N, ...] noise.
        x_1: [N, ...] data.
        t: [N].
    """
    t = t.view(-1, *(1,) * (x_1.ndim - 1))
    return t * x_1 + (1 - t) * x_0


def velocity(x_0: Tensor, x_1: Tensor) -> Tensor:
    """dx_t/dt = x_1 - x_0, what the model learns (paper Eq. 5)."""
    return x_1 - x_0


def losses(
    prediction: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    vd_weight: float = 1.0,
    mask: Tensor | Sequence[Tensor] | None = None,
) -> Losses:
    """Per-item loss of predicted velocities (paper Eq. 6, and the released direction term).

    Args:
        prediction: [N, C, F, H, W], or N tensors of any shapes.
        target: shaped as the prediction.
        vd_weight: weight of the direction term; 0 disables it.
        mask: bool, shaped as the prediction; only True elements count. None takes all.
    """
    if isinstance(prediction, Tensor) and isinstance(target, Tensor):
        keep = None if mask is None else torch.stack(list(mask)) if not isinstance(mask, Tensor) else mask
        return _batched_losses(prediction.flatten(1), target.flatten(1), vd_weight, keep)
    masks: Sequence[Tensor | None] = [None] * len(prediction) if mask is None else list(mask)
    parts = [
        _batched_losses(one.reshape(1, -1), goal.reshape(1, -1), vd_weight, keep)
        for one, goal, keep in zip(prediction, target, masks, strict=True)
    ]
    return Losses(
        total=torch.cat([part.total for part in parts]),
        task=torch.cat([part.task for part in parts]),
        direction=torch.cat([part.direction for part in parts]),
    )


def _batched_losses(prediction: Tensor, target: Tensor, vd_weight: float, mask: Tensor | None) -> Losses:
    prediction, target = prediction.float(), target.float()
    count: Tensor | int = prediction.shape[1]
    if mask is not None:
        keep = mask.reshape(prediction.shape)
        prediction, target = prediction * keep, target * keep
        count = keep.sum(1)
    task = (prediction - target).square().sum(1) / count
    direction = 1 - F.cosine_similarity(prediction, target, dim=1, eps=NORM_FLOOR)
    return Losses(total=task + vd_weight * direction, task=task, direction=direction)
