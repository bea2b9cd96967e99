"""The batch plan: complete epochs, weights as stated, and the same samples on any number of workers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.training.batches import BatchPlan, Entry
from lumina.training.stage import TaskConfig


def _entries(count: int) -> list[Entry]:
    return [Entry(f"clip{i:03d}", ("web", "synthetic")[i % 2], f"bucket{i % 3}") for i in range(count)]


def _task(batch_size: int, **changes: object) -> TaskConfig:
    values = {"name": "task", "media": "video", "patch": (1, 2, 2), "time_shift": 1.0, "batch_size": batch_size}
    return TaskConfig.model_validate({**values, **changes})


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 24),
    micro=st.none() | st.integers(1, 8),
    step=st.integers(0, 50),
    world=st.integers(1, 8),
)
def test_workers_share_out_the_same_batch(count: int, batch: int, micro: int | None, step: int, world: int) -> None:
    plan = BatchPlan(_task(batch, micro_batch_size=micro), _entries(count), seed=1)
    if batch < world:
        with pytest.raises(ValueError, match="smaller than the number of workers"):
            plan.micro_batches(step, 0, world)
        return
    shares = [plan.micro_batches(step, rank, world) for rank in range(world)]
    slots = [slot for share in shares for passes in share for slot in passes]
    assert sorted(slots, key=lambda slot: slot.position) == plan.batch(step)
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        sizes = [len(passes) for passes in share]
        assert min(sizes) >= 1
        assert max(sizes) <= (micro or batch) + (batch % world > 0)
        buckets = [plan.entries[slot.index].bucket for passes in share for slot in passes]
        assert buckets == sorted(buckets)


@given(count=st.integers(1, 30), batch=st.integers(1, 16), epochs=st.integers(1, 4), seed=st.integers(0, 5))
def test_every_epoch_takes_every_clip_once(count: int, batch: int, epochs: int, seed: int) -> None:
    plan = BatchPlan(_task(batch), _entries(count), seed)
    stream = [slot.index for step in range(-(-count * epochs // batch)) for slot in plan.batch(step)]
    assert Counter(stream[: count * epochs]) == dict.fromkeys(range(count), epochs)


def test_the_plan_depends_on_neither_the_order_of_entries_nor_what_was_asked_before() -> None:
    plan, other = BatchPlan(_task(4), _entries(10), 1), BatchPlan(_task(4), _entries(10)[::-1], 1)
    assert [other.batch(step) for step in range(9, -1, -1)] == [plan.batch(step) for step in range(10)][::-1]
    assert BatchPlan(_task(4), _entries(10), 2).batch(0) != plan.batch(0)


def test_weights_count_a_source_per_epoch() -> None:
    plan = BatchPlan(_task(1, source_weights={"web": 2.5, "synthetic": 0}), _entries(20), 1)
    counts = Counter(plan.batch(step)[0].index for step in range(plan.epoch_size))
    assert set(counts) == set(range(0, 20, 2))
    assert sorted(counts.values()) == [2] * 5 + [3] * 5
    with pytest.raises(ValueError, match="source_weights names film"):
        BatchPlan(_task(1, source_weights={"film": 1}), _entries(4), 1)
    with pytest.raises(ValueError, match="no video to train on"):
        BatchPlan(_task(1), [], 1)
