"""Step caching for sampling: what the blocks add to the tokens changes little from one step to the next.

After TeaCache (Liu et al. 2024, arXiv 2411.19108), with the time embedding alone as the measure, so that the steps at
which the blocks run depend on the schedule, and not on the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class BlockCache:
    """The blocks' change of the tokens, kept for as long as the time embedding stays near.

    One cache serves one batch on its way from noise to data.
    """

    threshold: float
    """Most drift of the time embedding, its relative L1 changes summed over the steps, before the blocks run again."""
    _place: Any = None
    _embedding: Tensor | None = None
    _drift: float = 0.0
    _change: Tensor | None = None

    def step(self, place: Any, embedding: Tensor, tokens: Tensor, blocks: Callable[[Tensor], Tensor]) -> Tensor:
        """Return blocks(tokens), or tokens plus what the blocks added to earlier ones.

        Args:
            place: what must be as it was for the kept change to fit: the scale, the items.
            embedding: the time embedding [A] of this evaluation.
            tokens: [n, l, D] before the blocks.
            blocks: runs them.
        """
        if self._embedding is not None:
            self._drift += float((embedding - self._embedding).abs().mean() / self._embedding.abs().mean())
        self._embedding = embedding
        if self._change is None or self._place != place or self._drift >= self.threshold:
            result = blocks(tokens)
            self._place, self._drift, self._change = place, 0.0, result - tokens
            return result
        return tokens + self._change
