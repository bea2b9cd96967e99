"""The batch plan: complete epochs, weights as stated, and the same samples on any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.training.data.batches import BatchPlan, Entry
from lumina.training.stage import TaskConfig


def _entry(number: int, kind: int) -> Entry:
    tokens = 10 + 7 * kind
    return Entry(f"clip{number:03d}", ("web", "synthetic")[number % 2], f"bucket{kind}", tokens, float(tokens**2))


def _entries(count: int, kinds: int = 3) -> list[Entry]:
    return [_entry(number, number % kinds) for number in range(count)]


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
    plan = BatchPlan(_task(batch, micro_batch_size=micro), _entries(count), seed=1, cluster_batches=3)
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
        for passes in share:
            assert passes == sorted(passes, key=lambda slot: (plan.entries[slot.index].bucket, slot.position))


@given(
    count=st.integers(1, 60),
    batch=st.integers(1, 16),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 5),
    cluster=st.integers(1, 4),
)
def test_every_epoch_takes_every_clip_once(count: int, batch: int, epochs: int, seed: int, cluster: int) -> None:
    plan = BatchPlan(_task(batch), _entries(count), seed, cluster)
    stream = [slot.index for step in range(-(-count * epochs // batch)) for slot in plan.batch(step)]
    assert Counter(stream[: count * epochs]) == dict.fromkeys(range(count), epochs)


def test_the_plan_depends_on_neither_the_order_of_entries_nor_what_was_asked_before() -> None:
    plan, other = BatchPlan(_task(4), _entries(10), 1, 2), BatchPlan(_task(4), _entries(10)[::-1], 1, 2)
    assert [other.batch(step) for step in range(9, -1, -1)] == [plan.batch(step) for step in range(10)][::-1]
    assert BatchPlan(_task(4), _entries(10), 2, 2).batch(0) != plan.batch(0)


def test_clips_that_are_all_alike_keep_the_order_that_they_are_drawn_in() -> None:
    # Recorded before there were clusters: the demo's clips are all of one shape.
    recorded = [[6, 1, 3, 0], [9, 7, 8, 4], [5, 2, 8, 7], [9, 2, 4, 0], [1, 6, 5, 3], [0, 1, 6, 9]]
    plan = BatchPlan(_task(4), _entries(10, kinds=1), 1, cluster_batches=100)
    assert [[slot.index for slot in plan.batch(step)] for step in range(6)] == recorded
    # One worker or two share it out as they did then.
    for step, world in ((0, 1), (3, 1), (0, 2), (5, 2)):
        for rank in range(world):
            assert plan.micro_batches(step, rank, world) == [plan.batch(step)[rank::world]]


def test_a_window_gives_batches_of_like_clips_in_random_order() -> None:
    plan = BatchPlan(_task(8), _entries(24 * 10), 1, cluster_batches=30)
    kinds = [[plan.entries[slot.index].bucket for slot in plan.batch(step)] for step in range(30)]
    assert all(len(set(batch)) == 1 for batch in kinds)
    order = [batch[0] for batch in kinds]
    assert order != sorted(order)
    # Other epochs have other batches, and windows of one batch are left as they are drawn.
    assert plan.batch(30) != plan.batch(0)
    apart = BatchPlan(_task(8), _entries(24 * 10), 1, cluster_batches=1)
    assert any(len({apart.entries[slot.index].bucket for slot in apart.batch(step)}) > 1 for step in range(30))


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.3])
def test_steps_without_the_task_use_up_no_batch(ratio: float) -> None:
    task = _task(4, ratio=ratio)
    some, all_steps = BatchPlan(task, _entries(40), 1, 5), BatchPlan(_task(4), _entries(40), 1, 5)
    taken = [some.batch(step) for step in range(40) if task.takes_part(step)]
    assert taken == [all_steps.batch(step) for step in range(len(taken))]


@pytest.mark.parametrize(("micro", "tokens"), [(None, None), (2, None), (None, 24000)])
def test_workers_have_like_loads_on_a_mix_of_lengths(micro: int | None, tokens: int | None) -> None:
    # 9 to 97 frames of four aspect ratios at 256 pixels, on 32 workers.
    rng = np.random.default_rng(0)
    entries = []
    for number in range(30_000):
        frames, cells = int(rng.integers(2, 25)), int(rng.choice([60, 63, 64, 65]))
        size = frames * cells * 4
        entries.append(Entry(f"clip{number:06d}", "web", f"{cells}x{frames}", size, 3e9 * size + 2e5 * size**2))
    task = _task(256, micro_batch_size=micro, micro_batch_tokens=tokens)
    plan = BatchPlan(task, entries, 1, cluster_batches=100)
    # The last of these batches is where two epochs meet: it is mixed.
    found = [plan.imbalance(step, 32) for step in range(118)]
    assert np.mean(found) < 0.01
    assert max(found) < 0.1


def test_weights_count_a_source_per_epoch() -> None:
    plan = BatchPlan(_task(1, source_weights={"web": 2.5, "synthetic": 0}), _entries(20), 1, 1)
    counts = Counter(plan.batch(step)[0].index for step in range(plan.epoch_size))
    assert set(counts) == set(range(0, 20, 2))
    assert sorted(counts.values()) == [2] * 5 + [3] * 5
    with pytest.raises(ValueError, match="source_weights names film"):
        BatchPlan(_task(1, source_weights={"film": 1}), _entries(4), 1, 1)
    with pytest.raises(ValueError, match="no video to train on"):
        BatchPlan(_task(1), [], 1, 1)


def test_what_a_source_appears_more_often_is_drawn_anew_in_every_epoch() -> None:
    plan = BatchPlan(_task(1, source_weights={"web": 1.5, "synthetic": 0.5}), _entries(16), 3, 1)
    assert plan.epoch_size == 12 + 4
    epochs = []
    for epoch in range(3):
        counts = Counter(plan.batch(step)[0].index for step in range(16 * epoch, 16 * epoch + 16))
        # All eight of one source and half of them again; half of the other, none of them twice.
        assert sorted(counts[index] for index in range(0, 16, 2)) == [1] * 4 + [2] * 4
        assert sorted(counts[index] for index in range(1, 16, 2)) == [0] * 4 + [1] * 4
        epochs.append(counts)
    assert epochs[0] != epochs[1] != epochs[2]


def test_recorded_orders() -> None:
    # A run goes on with the same batches whatever became of the code in between.
    def batches(plan: BatchPlan, steps: int) -> list[list[int]]:
        return [[slot.index for slot in plan.batch(step)] for step in range(steps)]

    weighted = BatchPlan(_task(4, source_weights={"web": 1.5, "synthetic": 0.5}), _entries(8), 3, 2)
    assert batches(weighted, 4) == [[0, 6, 6, 4], [4, 7, 1, 2], [4, 7, 4, 2], [6, 0, 6, 1]]
    clustered = BatchPlan(_task(6, micro_batch_size=2), _entries(14), 5, 2)
    assert batches(clustered, 3) == [[7, 13, 5, 2, 11, 8], [6, 9, 3, 0, 10, 4], [12, 1, 7, 13, 3, 6]]
    shares = [clustered.micro_batches(1, rank, 2) for rank in range(2)]
    assert [[[slot.position for slot in passes] for passes in share] for share in shares] == [
        [[4], [0, 2]],
        [[5], [1, 3]],
    ]
    # Epochs that are smaller than a batch.
    assert batches(BatchPlan(_task(3), _entries(2, 1), 3, 100), 4) == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]]


def test_a_pass_has_no_more_tokens_and_samples_than_the_task_says() -> None:
    # Entries of 10, 17 and 24 tokens.
    for bounds, most in (({"micro_batch_tokens": 40}, 40), ({"micro_batch_tokens": 60, "micro_batch_size": 2}, 60)):
        plan = BatchPlan(_task(24, **bounds), _entries(50), 1, 1)
        for step in range(4):
            passes = [slots for rank in range(2) for slots in plan.micro_batches(step, rank, 2)]
            tokens = [sum(plan.entries[slot.index].tokens for slot in slots) for slots in passes]
            assert max(tokens) <= most
            assert sum(tokens) == sum(plan.entries[slot.index].tokens for slot in plan.batch(step))
            assert max(map(len, passes)) <= bounds.get("micro_batch_size", 4)


def test_tasks_draw_orders_of_their_own() -> None:
    one, two = (BatchPlan(_task(8, name=name), _entries(40), 1, 1) for name in ("fine", "coarse"))
    assert one.batch(0) != two.batch(0)
    assert {slot.index for slot in one.batch(5)} != {slot.index for slot in one.batch(0)}


def test_an_order_that_is_no_epoch_is_an_error_and_no_endless_loop() -> None:
    plan = BatchPlan(_task(4), _entries(10), 1, 1)
    plan.epoch_size = 25
    with pytest.raises(AssertionError, match=r"task task: the order of epoch 0 has 10 clips, but an epoch 25"):
        plan.batch(0)
