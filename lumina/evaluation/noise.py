"""Noise addresses: where the initial noise of a clip comes from, whatever its batch, worker and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.randomness import generator


@dataclass(frozen=True)
class NoiseAddress:
    """The key of a counter-based generator: see `lumina.randomness`."""

    seed: int
    purpose: str
    address: tuple[int | str, ...] = ()

    def draw(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Standard normal noise of this shape."""
        rng = generator(self.seed, self.purpose, *self.address)
        return rng.standard_normal(tuple(shape), dtype=np.float32)


def evaluation_noise(seed: int, prompt_id: str, sample: int) -> NoiseAddress:
    """Of an evaluation's clip: not keyed by system prompt or checkpoint, which are compared from the same noise."""
    return NoiseAddress(seed, "eval-noise", (prompt_id, sample))


def sampled_noise(seed: int) -> NoiseAddress:
    """Of a clip that `lumina.generate.TextToVideo` makes with this seed."""
    return NoiseAddress(seed, "noise/sample")
