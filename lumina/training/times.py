"""Times of training samples: u in 0..1 before the time shift, drawn or as a quantile."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import numpy as np

Distribution = Literal["uniform", "lognormal"]
"""lognormal is the sigmoid of a normal number."""


def draw_time(rng: np.random.Generator, distribution: Distribution) -> float:
    """Draw u."""
    if distribution == "uniform":
        return float(rng.random(dtype=np.float32))
    return float(1 / (1 + math.exp(-rng.standard_normal())))


def time_quantile(distribution: Distribution, q: float) -> float:
    """The u that a share `q` of the draws lies below."""
    if distribution == "uniform":
        return q
    return float(1 / (1 + np.exp(-NormalDist().inv_cdf(q))))
