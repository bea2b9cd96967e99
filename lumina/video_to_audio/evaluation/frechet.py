"""Frechet distance of two Gaussians (Dowson and Landau 1982), and `rfd_mel64` of frames of log-mels.

    d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)

FD, FAD and FID are this of the features of one network or another. `rfd_mel64` needs none: its features are the 64
bins of every log-mel frame, so it compares which spectra occur and how often, and nothing over time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over n features of D numbers, which add up."""

    n: int
    total: FloatArray
    """[D]."""
    products: FloatArray
    """[D, D]: the sum of x x^T."""

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Moments:
        """Of features [n, D]; ValueError for another shape."""
        if features.ndim != 2:
            raise ValueError(f"features must be [n, D], got {list(features.shape)}")
        x = features.astype(np.float64)
        return cls(len(x), x.sum(0), x.T @ x)

    def gaussian(self) -> tuple[FloatArray, FloatArray]:
        """Mean [D] and unbiased covariance [D, D]; ValueError for fewer than two features."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.n}")
        mean = self.total / self.n
        return mean, (self.products - self.n * np.outer(mean, mean)) / (self.n - 1)


def added(moments: Iterable[Moments]) -> Moments:
    """Of all features together, added in the order given; ValueError for none."""
    several = list(moments)
    if not several:
        raise ValueError("there are no features")
    total, products = (np.sum([getattr(one, name) for one in several], axis=0) for name in ("total", "products"))
    return Moments(sum(one.n for one in several), total, products)


def frechet_distance(first: Moments, second: Moments) -> float:
    """d^2 of the Gaussians of two sets of features, 0 at least; symmetric.

    Square roots are those of the eigenvalues of symmetric matrices, so there is no complex one to be dropped.
    """
    (mean, cov), (other_mean, other_cov) = first.gaussian(), second.gaussian()
    if mean.shape != other_mean.shape:
        raise ValueError(f"features have {len(mean)} numbers on one side and {len(other_mean)} on the other")
    values, axes = np.linalg.eigh(cov)
    root = (axes * np.sqrt(values.clip(0))) @ axes.T
    inner = root @ other_cov @ root
    trace = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(0)).sum()
    apart = mean - other_mean
    return max(0.0, float(apart @ apart + np.trace(cov) + np.trace(other_cov) - 2 * trace))


def rfd_mel64(true: Iterable[Moments], made: Iterable[Moments]) -> float:
    """Frechet distance of log-mel frames [n, 64] of two corpora, clip by clip. It is no FAD: no network looks at it."""
    return frechet_distance(added(true), added(made))
