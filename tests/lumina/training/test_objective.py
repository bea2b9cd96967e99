"""Keyed draws: the same for any grouping, right in distribution; and the loss of mixed shapes."""

from __future__ import annotations

import pytest
import torch

from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.data.latents import LatentDataset
from lumina.training.objective import DROPPED, Objective
from tests.lumina.training import toy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    latents, text = toy.write(tmp_path_factory.mktemp("toy"))
    return LatentDataset([latents], text)


def test_draws_depend_on_their_address_alone(data: LatentDataset) -> None:
    objective = Objective(toy.stage(), data)
    clips = data.of_task(toy.FINE, toy.stage()).clips
    items = [(0, clips[0]), (1, clips[1]), (2, clips[0])]
    whole = objective.micro_batch(3, toy.FINE, items)
    for row, item in reversed(list(enumerate(items))):
        alone = objective.micro_batch(3, toy.FINE, [item])
        assert torch.equal(alone.x_0[0], whole.x_0[row])
        assert torch.equal(alone.t[0], whole.t[row])
        assert torch.equal(alone.motion[0], whole.motion[row])
    # One clip twice in a batch, and a clip in another step, get other noise.
    assert not torch.equal(whole.x_0[0], whole.x_0[2])
    assert not torch.equal(objective.micro_batch(4, toy.FINE, items).x_0[0], whole.x_0[0])


def test_drops_and_times_follow_the_config(data: LatentDataset) -> None:
    objective = Objective(toy.stage(), data)
    for task, kept, unknown in ((toy.FINE, 3.5, 0.3), (toy.IMAGE, 0.0, 0.6)):
        clips = data.of_task(task, toy.stage()).clips
        batch = objective.micro_batch(0, task, [(place, clips[place % len(clips)]) for place in range(2000)])
        assert set(batch.motion.tolist()) == {kept, DROPPED}
        assert (batch.motion == DROPPED).float().mean().item() == pytest.approx(unknown, abs=0.04)
        dropped = sum(not text.any() for text in batch.text) / len(batch.text)
        assert dropped == pytest.approx(0.2, abs=0.04)
        # u is uniform, so t passes the shifted median half of the time.
        assert (batch.t < 1 / (1 + task.time_shift)).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_longer_clips_give_a_random_window(data: LatentDataset) -> None:
    task = toy.COARSE.model_copy(update={"latent_frames": 2})
    clips = data.of_task(task, toy.stage()).clips
    batch = Objective(toy.stage(), data).micro_batch(0, task, [(place, clips[0]) for place in range(50)])
    assert {x.shape[1] for x in batch.x_1} == {2}
    assert batch.tokens == 50 * (clips[0].shape[2] // 4) * (clips[0].shape[3] // 4)


def test_a_pass_of_mixed_shapes_has_the_losses_of_its_items(data: LatentDataset) -> None:
    config = toy.stage()
    objective, model = Objective(config, data), MultiScaleNextDiT(config.model)
    items = list(enumerate(data.of_task(toy.FINE, toy.stage()).clips))
    assert len({clip.shape for _, clip in items}) == 2
    cpu = torch.device("cpu")
    mixed = objective.losses(model, objective.micro_batch(0, toy.FINE, items), torch.float32, cpu)
    alone = [
        objective.losses(model, objective.micro_batch(0, toy.FINE, [item]), torch.float32, cpu).total for item in items
    ]
    torch.testing.assert_close(mixed.total, torch.cat(alone))
