"""What a stage's config refuses, and its learning rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lumina.training.stage import TaskConfig
from tests.lumina.training import toy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (2, 4, 4)}, r"images train at patch \(1, 2, 2\) only"),
        ({"media": "video", "patch": (2, 4, 4), "latent_frames": 3}, "must be a multiple of the temporal patch 2"),
        ({"source_weights": {"web": -1.0}}, "weight of source 'web' must be at least 0"),
        ({"time_shift": 0.0}, "greater than 0"),
        ({"batch": 3}, "Extra inputs"),
    ],
)
def test_a_task_refuses(changes: dict[str, Any], message: str) -> None:
    values = {"name": "task", "media": "image", "patch": (1, 2, 2), "time_shift": 1.0, "batch_size": 4, **changes}
    with pytest.raises(ValidationError, match=message):
        TaskConfig.model_validate(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_stage": 3}, "zero_stage 3 is refused: .* adds the last step's gradients"),
        ({"zero_stage": 0}, "zero_stage must be 1 or 2"),
        ({"tasks": (toy.IMAGE, toy.IMAGE)}, "task names must differ"),
        ({"model": toy.MODEL.model_copy(update={"patch_sizes": ((1, 2, 2),)})}, "task coarse: the model has no patch"),
        ({"lora": {"targets": ()}}, "targets must name at least one layer, and each once, got none"),
        ({"lora": {"targets": ("wq", "wq")}}, "targets must name at least one layer, and each once, got wq, wq"),
        ({"tasks": (toy.FINE.model_copy(update={"ratio": 0.5}),)}, "no task has ratio 1"),
        ({"warmup_steps": 7}, "warmup_steps 7 must be at most steps 6"),
        ({"muon_lr": 1e-2}, "muon_lr is of optimizer: muon, not of adamw"),
    ],
)
def test_a_stage_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        toy.stage(steps=6, **changes)


def test_learning_rates() -> None:
    flat = toy.stage(steps=10, lr=1.0)
    assert [flat.learning_rate(step) for step in (0, 9)] == [1.0, 1.0]
    for decay, middle in (("linear", 0.55), ("cosine", 0.55)):
        stage = toy.stage(steps=14, lr=1.0, warmup_steps=3, lr_decay=decay)
        assert [stage.learning_rate(step) for step in (0, 2, 3)] == pytest.approx([1 / 3, 1.0, 1.0])
        assert stage.learning_rate(8) == pytest.approx(middle)
        assert stage.learning_rate(13) == pytest.approx(0.1)


@given(ratio=st.floats(0.01, 1), steps=st.integers(1, 500))
def test_a_task_takes_part_in_its_share_of_the_steps(ratio: float, steps: int) -> None:
    task = toy.FINE.model_copy(update={"ratio": ratio})
    taken = [task.takes_part(step) for step in range(steps)]
    assert sum(taken) == math.floor(steps * ratio)
    assert all(taken) == (ratio == 1.0) or steps * (1 - ratio) < 1
