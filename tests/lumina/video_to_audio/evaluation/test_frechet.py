"""Frechet distance: closed forms, properties, and sums that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from lumina.video_to_audio.evaluation.frechet import Moments, added, frechet_distance, rfd_mel64


def features(seed: int, n: int = 40, scale: float = 1.0, width: int = 5) -> np.ndarray:
    return scale * np.random.Generator(np.random.Philox(seed)).standard_normal((n, width))


def test_of_one_number_it_is_the_closed_form() -> None:
    # Means 1 and 4, variances 2 and 8: (4 - 1)^2 + (sqrt 2 - sqrt 8)^2.
    first, second = np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])
    assert frechet_distance(Moments.of(first), Moments.of(second)) == pytest.approx(9 + 2)


def test_it_is_the_formula_with_the_root_of_the_product() -> None:
    first, second = features(1), features(2) @ features(3, 5) + 1
    mixed = sqrtm(np.cov(first.T) @ np.cov(second.T))
    apart = first.mean(0) - second.mean(0)
    expected = apart @ apart + np.trace(np.cov(first.T) + np.cov(second.T) - 2 * mixed.real)
    assert frechet_distance(Moments.of(first), Moments.of(second)) == pytest.approx(expected)


@given(st.integers(0, 99), st.floats(-3, 3), st.integers(2, 8))
def test_properties(seed: int, shift: float, n: int) -> None:
    first, second = Moments.of(features(seed)), Moments.of(features(seed + 100, n))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-5, abs=1e-6)
    moved = Moments.of(features(seed) + shift)
    assert frechet_distance(first, moved) == pytest.approx(5 * shift**2, abs=1e-6)


def test_clips_add_up_to_the_corpus() -> None:
    whole, clips = features(1, 30), np.split(features(1, 30), [7, 19])
    other = [Moments.of(features(2, 9)), Moments.of(features(4, 9))]
    split = [Moments.of(clip) for clip in clips]
    assert rfd_mel64(split, other) == pytest.approx(frechet_distance(Moments.of(whole), added(other)))
    with pytest.raises(ValueError, match="no features"):
        rfd_mel64([], other)
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        rfd_mel64([Moments.of(features(1, 1))], other)
    with pytest.raises(ValueError, match="5 numbers on one side and 4 on the other"):
        rfd_mel64(split, [Moments.of(features(1, 9, width=4))])
