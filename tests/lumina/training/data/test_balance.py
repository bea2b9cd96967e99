"""Sharing out: nothing lost, bounds kept, passes in step, and like costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.training.data.balance import Samples, Shares, imbalance, share_out


def _samples(tokens: list[int], shape: list[int] | None = None) -> Samples:
    numbers = np.array(tokens)
    shapes = np.unique(numbers, return_inverse=True)[1] if shape is None else np.array(shape)
    return Samples(100.0 * numbers + numbers.astype(float) ** 2, numbers, shapes)


def _passes(shares: Shares) -> list[list[int]]:
    return [passes for share in shares for passes in share]


@given(
    tokens=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    world=st.integers(1, 9),
    most_samples=st.none() | st.integers(1, 9),
    most_tokens=st.none() | st.integers(10, 150),
)
def test_every_sample_once_and_no_pass_too_large(
    tokens: list[int], world: int, most_samples: int | None, most_tokens: int | None
) -> None:
    samples, count = _samples(tokens), len(tokens)
    if count < world:
        with pytest.raises(ValueError, match="cannot be shared out"):
            share_out(samples, world, most_samples, most_tokens)
        return
    shares = share_out(samples, world, most_samples, most_tokens)
    assert sorted(position for passes in _passes(shares) for position in passes) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    # With as many passes as there are samples for, the rest cannot but share one.
    last_resort = len(shares[0]) == count // world and count % world > 0
    for passes in _passes(shares):
        assert passes == sorted(passes, key=lambda position: (samples.shape[position], position))
        assert 1 <= len(passes) <= max(most_samples or count, 2 if last_resort else 1)
        if most_tokens is not None and not last_resort:
            assert len(passes) == 1 or samples.tokens[passes].sum() <= most_tokens
    assert shares == share_out(samples, world, most_samples, most_tokens)


@given(count=st.integers(1, 64), world=st.integers(1, 8), shapes=st.integers(1, 3))
def test_equal_costs_are_dealt_out_in_turn(count: int, world: int, shapes: int) -> None:
    if count < world:
        return
    [one] = share_out(_samples([7] * count, [i % shapes for i in range(count)]), 1, None, None)
    assert one == [sorted(range(count), key=lambda position: (position % shapes, position))]
    dealt = share_out(_samples([7] * count), world, None, None)
    assert [passes for [passes] in dealt] == [list(range(count))[rank::world] for rank in range(world)]


def test_as_few_passes_as_the_bounds_need() -> None:
    assert len(share_out(_samples([10] * 32), 2, 4, None)[0]) == 4
    assert len(share_out(_samples([10] * 32), 2, None, 40)[0]) == 4
    assert len(share_out(_samples([10] * 32), 2, 8, 40)[0]) == 4
    # The one that is larger than the bound is alone, and costs no further pass.
    shares = share_out(_samples([90, *[10] * 12]), 2, None, 40)
    assert len(shares[0]) == 2
    assert [0] in _passes(shares)


def test_a_pass_has_one_shape_where_that_costs_nothing() -> None:
    # Upright and lying, of the same cost, in any order.
    samples = _samples([40] * 64, np.random.default_rng(0).permutation([0, 1] * 32).tolist())
    shares = share_out(samples, 4, 4, None)
    assert all(len(set(samples.shape[passes].tolist())) == 1 for passes in _passes(shares))
    assert imbalance(samples, shares) == 0


def test_workers_have_like_sums_and_passes_have_like_costs() -> None:
    tokens = np.random.default_rng(0).integers(20, 400, 256)
    samples = _samples(tokens.tolist())
    for most_samples, sums, passes in ((None, 0.02, 0.02), (8, 0.05, 0.05), (1, 0.01, 0.1)):
        shares = share_out(samples, 16, most_samples, None)
        assert imbalance(samples, shares) < sums
        costs = np.array([[samples.cost[some].sum() for some in share] for share in shares])
        # What is lost where workers wait for one another after every pass.
        assert costs.max(0).sum() / costs.mean(0).sum() - 1 < passes
