"""Exchange, reading and checkpoints in seconds, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from lumina.step_time import Exchange, Links, exchange, waiting
from lumina.training.checkpoint_interval import WRITE_BYTES_PER_S
from lumina.training.loop_config import LoopConfig

LINKS = Links(network=10e9, storage=1e9)


NOTHING = Exchange(0, 0, 1, 1)


def test_zero_1_exchanges_gradients_twice_and_weights_once() -> None:
    # 1.77 billion on 64 GPUs: 14 GB to sum and to spread gradients in float32, 3.5 GB of weights in bfloat16.
    sent = exchange(1_771_364_672, 64, gradient_bytes=4, weight_bytes=2, passes=6)
    assert (sent.reduced, sent.gathered) == pytest.approx((63 / 64 * 14.17e9, 63 / 64 * 3.543e9), rel=1e-3)
    assert (sent.passes, sent.reducing) == (6, 1)
    assert exchange(1000, 4, 4, 2) == Exchange(6000, 1500, 1, 1)
    assert exchange(1000, 1, 4, 4) == NOTHING


def test_zero_2_reduces_in_every_pass() -> None:
    assert exchange(1000, 4, 4, 2, zero_stage=2, passes=5) == Exchange(15_000, 1500, 5, 5)


def test_what_is_reduced_beside_a_backward_pass_costs_nothing() -> None:
    """Two of three passes' seconds are backward, of the last pass alone in ZeRO-1."""
    # 0.9 s in three passes: 0.2 s of the last is backward; 0.5 s to reduce, 0.1 s to gather.
    spent = waiting(0.9, Exchange(5_000_000_000, 1_000_000_000, 3, 1), 0, 1, 4, LINKS, LoopConfig())
    assert (spent.exchange_s, spent.exposed_s, spent.step_s) == pytest.approx((0.6, 0.4, 1.3))
    hidden = waiting(0.9, Exchange(5_000_000_000, 1_000_000_000, 3, 3), 0, 1, 4, LINKS, LoopConfig())
    assert hidden.exposed_s == pytest.approx(0.1)


def test_a_step_waits_for_what_takes_longest() -> None:
    sent = Exchange(0, 2_000_000_000, 1, 1)
    spent = waiting(0.3, sent, 400_000_000, 6_000_000_000, 4, LINKS, LoopConfig(checkpoint_every=60))
    assert (spent.exposed_s, spent.read_s, spent.step_s) == pytest.approx((0.2, 0.4, 0.5))
    assert spent.read_rate == pytest.approx(0.8e9)
    assert not spent.waits_for_storage
    # Six seconds for the storage to take all; a worker alone has its share written in three.
    assert spent.checkpoint_s == pytest.approx(6)
    assert spent.checkpoint_every_s == pytest.approx(30)
    assert spent.checkpoint_share == pytest.approx(0.2)
    assert waiting(0.3, NOTHING, 400_000_000, 1, 4, LINKS, LoopConfig()).waits_for_storage
    single = waiting(0.3, NOTHING, 0, 6_000_000_000, 1, Links(storage=1e12), LoopConfig())
    assert single.checkpoint_s == 6e9 / WRITE_BYTES_PER_S


def test_by_time_checkpoints_keep_to_their_share() -> None:
    spent = waiting(0.3, NOTHING, 0, 6_000_000_000, 4, LINKS, LoopConfig(checkpoint_share=0.05))
    assert (spent.checkpoint_every_s, spent.checkpoint_share) == pytest.approx((120, 0.05))
    assert waiting(0.3, NOTHING, 0, 1000, 4, LINKS, LoopConfig(checkpoint_share=0.05)).checkpoint_every_s == 60
