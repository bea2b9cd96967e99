"""The pace: what is counted, what is left out, and the operations of a micro-batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lumina.cost import training_cost
from lumina.training.clock import StepClock
from lumina.training.objective import MicroBatch
from lumina.training.video_workload import micro_batch_flops
from tests.lumina.training import toy

CPU = torch.device("cpu")


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _batch(*shapes: tuple[int, int, int], patch: tuple[int, int, int] = (2, 4, 4)) -> MicroBatch:
    latents = tuple(torch.zeros(toy.CHANNELS, *shape) for shape in shapes)
    return MicroBatch(
        clip_ids=tuple(f"clip{number}" for number in range(len(shapes))),
        patch=patch,
        x_1=latents,
        x_0=latents,
        t=torch.zeros(len(shapes)),
        text=tuple(torch.zeros(number + 1, toy.TEXT_WIDTH) for number in range(len(shapes))),
        motion=torch.zeros(len(shapes)),
    )


def test_flops_are_those_of_every_sample_with_its_text() -> None:
    expected = training_cost(toy.MODEL, (4, 8, 8), (2, 4, 4), 1) + training_cost(toy.MODEL, (2, 8, 4), (2, 4, 4), 2)
    assert micro_batch_flops(toy.MODEL, _batch((4, 8, 8), (2, 8, 4))) == expected


def test_the_pace_leaves_out_pauses_and_starts_anew() -> None:
    time = Time()
    clock = StepClock(partial(micro_batch_flops, toy.MODEL), CPU, peak=1e9, now=time)
    batch = _batch((4, 8, 8), (4, 8, 8))
    for _ in range(4):
        with clock.waiting():
            time.now += 0.5
        clock.add(batch)
        time.now += 1.5
        clock.add_step()
    with clock.paused():
        time.now += 60
    flops = micro_batch_flops(toy.MODEL, batch) / 2
    expected = {
        "tokens_per_second": 8.0,
        "samples_per_second": 1.0,
        "seconds_per_step": 2.0,
        "data_share": 0.25,
        "flops_per_second": flops,
        "flop_utilisation": flops / 1e9,
    }
    assert clock.report() == pytest.approx(expected)
    with pytest.raises(ValueError, match="no step since the last report"):
        clock.report()
    time.now += 3
    clock.add_step()
    assert clock.report()["seconds_per_step"] == 3.0


def test_without_a_known_peak_there_is_no_utilisation() -> None:
    clock = StepClock(partial(micro_batch_flops, toy.MODEL), CPU)
    clock.add(_batch((4, 8, 8)))
    clock.add_step()
    report = clock.report()
    assert "flop_utilisation" not in report
    assert report["flops_per_second"] > 0
