"""Exchange, reading and checkpoints in seconds, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from lumina.step_time import Links, exchange_bytes, waiting
from lumina.training.checkpoint_interval import WRITE_BYTES_PER_S, Often

LINKS = Links(network=10e9, storage=1e9)


def test_zero_1_exchanges_gradients_twice_and_weights_once() -> None:
    # 1.77 billion in bfloat16 on 64 GPUs: 7 GB to sum and to spread gradients, 3.5 GB of weights.
    assert exchange_bytes(1_771_364_672, 64, 2) == pytest.approx(63 / 64 * (7.09e9 + 3.54e9), rel=1e-3)
    assert exchange_bytes(1000, 4, 4) == 3 * 3000
    assert exchange_bytes(1000, 1, 4) == 0


def test_zero_2_reduces_in_every_pass() -> None:
    assert exchange_bytes(1000, 4, 2, zero_stage=2, passes=5) == 1500 * (5 + 1)
    assert exchange_bytes(1000, 4, 2, zero_stage=1, passes=5) == 1500 * (2 + 1)


def test_a_step_waits_for_what_takes_longest() -> None:
    spent = waiting(0.3, 2_000_000_000, 400_000_000, 6_000_000_000, 4, LINKS, Often(steps=60))
    assert (spent.exchange_s, spent.read_s, spent.step_s) == pytest.approx((0.2, 0.4, 0.5))
    assert spent.read_rate == pytest.approx(0.8e9)
    assert not spent.waits_for_storage
    # Six seconds for the storage to take all; a worker alone has its share written in three.
    assert spent.checkpoint_s == pytest.approx(6)
    assert spent.checkpoint_every_s == pytest.approx(30)
    assert spent.checkpoint_share == pytest.approx(0.2)
    assert waiting(0.3, 0, 400_000_000, 1, 4, LINKS, Often()).waits_for_storage
    single = waiting(0.3, 0, 0, 6_000_000_000, 1, Links(storage=1e12), Often())
    assert single.checkpoint_s == 6e9 / WRITE_BYTES_PER_S


def test_by_time_checkpoints_keep_to_their_share() -> None:
    spent = waiting(0.3, 0, 0, 6_000_000_000, 4, LINKS, Often(seconds=60, share=0.05))
    assert (spent.checkpoint_every_s, spent.checkpoint_share) == pytest.approx((120, 0.05))
    assert waiting(0.3, 0, 0, 1000, 4, LINKS, Often(seconds=60, share=0.05)).checkpoint_every_s == 60
