"""Networks on another device and in another dtype: what goes in follows the weights, what comes out is float32 here.

Fake tensors of the meta device stand in for a GPU's: an operation on tensors of two devices raises.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lumina.vbench.networks.clip import load_clip
from lumina.vbench.networks.dino import load_dino
from lumina.vbench.networks.flow import load_raft
from lumina.vbench.networks.human_action import load_human_action
from tests.lumina.vbench.networks.reference_numbers import ACTION, DINO, frames

ELSEWHERE = {"device": "meta", "dtype": torch.float16}


def test_everything_follows_the_weights(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dino, clip = load_dino(files["dino"], DINO, **ELSEWHERE), load_clip(files["clip"], **ELSEWHERE)
    action, raft = load_human_action(files["action"], ACTION, **ELSEWHERE), load_raft(files["raft"], **ELSEWHERE)
    monkeypatch.setattr(raft.model, "forward", partial(raft.model.forward, iterations=2))
    some, many, large = frames(3, 90, 160), frames(16, 90, 160), frames(3, 128, 128)
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = [
            dino.features(some),
            clip.images(some),
            clip.tokens(torch.tensor([[8, 1, 9]])),
            action.logits(many),
            *raft._batches(large, [(0, 1), (1, 2)], 1),
        ]
    assert [list(value.shape) for value in found] == [[3, 48], [3, 24], [1, 24], [12], *[[1, 2, 128, 128]] * 2]
    assert {(value.device.type, value.dtype) for value in found} == {("cpu", torch.float32)}


def test_half_precision_is_near_single(files: dict[str, Path]) -> None:
    clip = frames(2, 90, 160)
    for load in (
        lambda dtype: load_dino(files["dino"], DINO, dtype=dtype).features(clip),
        lambda dtype: load_clip(files["clip"], dtype=dtype).images(clip),
    ):
        half, single = load(torch.bfloat16), load(torch.float32)
        assert 0 < (half - single).norm() / single.norm() < 0.05


def test_coordinates_of_flow_stay_in_single_precision(files: dict[str, Path]) -> None:
    clip = frames(2, 128, 128)
    single, half = (
        next(load_raft(files["raft"], dtype=dtype).flows(clip)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == single.dtype
    assert abs(half - single).mean() < 0.25 * abs(single).mean()


def test_the_digest_is_of_the_file(files: dict[str, Path]) -> None:
    assert load_dino(files["dino"], DINO, **ELSEWHERE).digest == load_dino(files["dino"], DINO).digest
    assert load_raft(files["raft"], **ELSEWHERE).digest == load_raft(files["raft"]).digest
