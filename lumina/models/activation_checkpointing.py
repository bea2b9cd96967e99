"""Activation checkpointing: the backward pass computes again what the forward pass did not keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from lumina.models.config import Recompute

_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm"})
_ATTENTION = ("aten::_scaled_dot_product_", "torch_attn::_varlen_attn")
_THIN = 16
"""A product that yields this many times more numbers than it sums up for each costs little to compute again."""


def recomputed(mode: Recompute, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Return function(*args), keeping for the backward pass what the mode says.

    The function must draw no random numbers. Values and gradients are those of a plain call, bit for bit.
    """
    if mode == "none" or not torch.is_grad_enabled():
        return function(*args)
    if mode == "full":
        return cast(Tensor, checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False))
    keeps = _per_op if mode == "per-op" else _attention
    contexts = partial(create_selective_checkpoint_contexts, keeps)
    return cast(Tensor, checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts))


def _per_op(_context: object, operation: Any, *args: Any, **_kwargs: Any) -> CheckpointPolicy:
    name = operation.name()
    if name in _PRODUCTS:
        summed, yielded = args[-1].shape[-2:]
        # The way out of low-rank adapters is as wide as what it is added to, and nobody needs it in the backward pass.
        return CheckpointPolicy.PREFER_RECOMPUTE if summed * _THIN <= yielded else CheckpointPolicy.MUST_SAVE
    return _attention(_context, operation)


def _attention(_context: object, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    kept = operation.name().startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
