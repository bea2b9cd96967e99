"""Keyed draws: the same for any grouping, right in distribution; and the loss of mixed shapes."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.data.latents import LatentDataset
from lumina.training.objective import DROPPED, MicroBatch, Objective
from lumina.training.stage import TaskConfig
from lumina.training.weights.start import initial_model
from tests.lumina.training import toy
from tests.lumina.training.reference import item_losses, spread


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


def test_every_part_of_an_address_counts(data: LatentDataset) -> None:
    items = [(0, data.of_task(toy.FINE, toy.stage()).clips[0])]
    other = toy.FINE.model_copy(update={"name": "other"})
    first = Objective(toy.stage(), data).micro_batch(3, toy.FINE, items)
    for config, step, task in ((toy.stage(seed=1), 3, toy.FINE), (toy.stage(), 4, toy.FINE), (toy.stage(), 3, other)):
        batch = Objective(config, data).micro_batch(step, task, items)
        assert not torch.equal(batch.x_0[0], first.x_0[0])
        assert batch.t != first.t


def _draw(data: LatentDataset, task: TaskConfig, samples: int = 2000, **changes: object) -> MicroBatch:
    config = toy.stage(**changes)
    clips = data.of_task(task, config).clips
    return Objective(config, data).micro_batch(
        0, task, [(place, clips[place % len(clips)]) for place in range(samples)]
    )


def test_drops_and_times_follow_the_config_and_are_independent(data: LatentDataset) -> None:
    for task, kept, unknown in ((toy.FINE, 3.5, 0.3), (toy.COARSE, 3.5, 0.3), (toy.IMAGE, 0.0, 0.6)):
        batch = _draw(data, task)
        assert set(batch.motion.tolist()) == {kept, DROPPED}
        silent = torch.tensor([not text.any() for text in batch.text])
        withheld = batch.motion == DROPPED
        rates = {(True, True): 0.2 * unknown, (True, False): 0.2 * (1 - unknown), (False, True): 0.8 * unknown}
        for (caption, motion), rate in rates.items():
            both = (silent == caption) & (withheld == motion)
            assert both.float().mean().item() == pytest.approx(rate, abs=0.04)
        # u is uniform, so t passes the shifted quartiles as often as it should, whatever was dropped.
        for quartile in (0.25, 0.5, 0.75):
            below = (batch.t < quartile / (quartile + task.time_shift * (1 - quartile))).float()
            assert below.mean().item() == pytest.approx(quartile, abs=0.04)
            for dropped in (silent, withheld):
                assert below[dropped].mean().item() == pytest.approx(quartile, abs=0.1)
    noise = torch.cat([x_0.flatten() for x_0 in batch.x_0])
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_lognormal_times_are_the_sigmoid_of_normal_numbers(data: LatentDataset) -> None:
    for task in (toy.IMAGE, toy.COARSE):
        t = _draw(data, task, t_distribution="lognormal").t
        for number, share in ((-1.0, 0.1587), (0.0, 0.5), (1.0, 0.8413)):
            u = 1 / (1 + math.exp(-number))
            below = (t < u / (u + task.time_shift * (1 - u))).float().mean().item()
            assert below == pytest.approx(share, abs=0.035)


def test_a_dropped_caption_leaves_the_features_of_its_system_prompt(data: LatentDataset) -> None:
    clips = data.of_task(toy.FINE, toy.stage()).clips
    for drop, name in ((0.0, "text_id"), (1.0, "text_id_dropped")):
        batch = _draw(data, toy.FINE, len(clips), prompt_drop=drop)
        for clip, text in zip(clips, batch.text, strict=True):
            assert torch.equal(text, data.text(getattr(clip, name)))


def test_a_clip_without_a_score_has_none(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path)
    path = latents / "data" / "part-0.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("motion_score")
    pq.write_table(table.set_column(column, "motion_score", pa.nulls(len(table), pa.float64())), path)
    batch = _draw(LatentDataset([latents], text), toy.FINE, 6, motion_drop=0.0)
    assert set(batch.motion.tolist()) == {DROPPED}


def _frames(x_1: torch.Tensor) -> list[int]:
    """Which stored frames a window has, by their level."""
    return [toy.LEVELS.index(round(level, 3)) for level in x_1[0].abs().amax((1, 2)).tolist()]


def test_all_frames_but_the_first_are_trained_on(data: LatentDataset) -> None:
    assert [_frames(x_1) for x_1 in _draw(data, toy.FINE, 6).x_1] == [[1, 2, 3, 4]] * 6


def test_longer_clips_give_a_random_window(data: LatentDataset) -> None:
    task = toy.COARSE.model_copy(update={"latent_frames": 2})
    batch = _draw(data, task, 90)
    seen = [_frames(x_1) for x_1 in batch.x_1]
    # Every place from the first to the last that there is, each about as often.
    assert {tuple(frames) for frames in seen} == {(1, 2), (2, 3), (3, 4)}
    assert min(seen.count([start, start + 1]) for start in (1, 2, 3)) >= 18
    assert batch.tokens == sum(math.prod(x_1.shape[2:]) // 16 for x_1 in batch.x_1)
    # Unless a number of them is asked for, a whole multiple of the temporal patch.
    odd = toy.FINE.model_copy(update={"patch": (3, 2, 2)})
    assert {tuple(_frames(x_1)) for x_1 in _draw(data, odd, 30).x_1} == {(1, 2, 3), (2, 3, 4)}


@pytest.mark.parametrize("width", [None, 8])
def test_losses_are_those_written_by_hand(data: LatentDataset, width: int | None) -> None:
    """Of items of one shape, which are batched, and of several."""
    config = toy.stage(vd_weight=0.5, initialisation="conditioned")
    model = spread(initial_model(config, None))
    clips = [clip for clip in data.of_task(toy.FINE, config).clips if width in (None, clip.shape[3])]
    batch = Objective(config, data).micro_batch(0, toy.FINE, list(enumerate(clips)))
    assert (len({x_1.shape for x_1 in batch.x_1}) == 1) == (width is not None)
    found = Objective(config, data).losses(model, batch, torch.float32, torch.device("cpu"))
    mse, direction = item_losses(model, batch)
    torch.testing.assert_close(found.task, mse, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.direction, direction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.total, mse + 0.5 * direction, rtol=1e-4, atol=1e-5)


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
