"""Held-out losses: the same at every look and on every number of workers, and exactly those of the clips."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from lumina.models.next_dit import MultiScaleNextDiT
from lumina.training.data.latents import Clip, LatentDataset
from lumina.training.objective import DROPPED, Objective
from lumina.training.stage import TrainStageConfig
from lumina.training.validation import QUANTILES, Validation
from lumina.training.video_workload import VideoWorkload
from lumina.training.weights.start import initial_model
from tests.lumina.training import toy
from tests.lumina.training.group import run_group

CPU = torch.device("cpu")
HELD = tuple(f"clip{number:03d}" for number in (0, 1, 2, 3, 4, 12, 13, 14, 15, 16))


def _write(root: Path, reverse: bool = False) -> LatentDataset:
    """The toy's data with ten of its clips held out, the rows in either order."""
    latents, text = toy.write(root, videos=12, images=8)
    path = latents / "data" / "part-0.parquet"
    table = pq.read_table(path)
    split = ["heldout" if name in HELD else "train" for name in table.column("clip_id").to_pylist()]
    table = table.set_column(table.column_names.index("split"), "split", [split])
    order = list(range(len(table)))
    pq.write_table(table.take(order[::-1] if reverse else order), path, row_group_size=3)
    return LatentDataset([latents], text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return _write(tmp_path_factory.mktemp("heldout"))


@pytest.fixture(scope="module")
def model() -> MultiScaleNextDiT:
    return initial_model(toy.stage(initialisation="conditioned"), None)


def _run(data: LatentDataset, model: MultiScaleNextDiT, config: TrainStageConfig, clips: int = 16) -> dict[str, float]:
    return Validation(VideoWorkload(config, data), clips, 0, 1).run(model, torch.float32, CPU)


def test_losses_are_grouped_by_task_source_and_time(data: LatentDataset, model: MultiScaleNextDiT) -> None:
    config = toy.stage()
    found = _run(data, model, config)
    tasks = [task.name for task in config.tasks]
    expected = {f"val/{task}" for task in tasks}
    expected |= {f"val/{task}/{source}" for task in tasks for source in ("web", "synthetic")}
    expected |= {f"val_t/{task}/{quantile}" for task in tasks for quantile in QUANTILES}
    assert set(found) == expected
    assert list(found) == sorted(found)
    for task in tasks:
        by_time = [found[f"val_t/{task}/{quantile}"] for quantile in QUANTILES]
        assert found[f"val/{task}"] == pytest.approx(sum(by_time) / len(by_time))


def test_every_look_is_the_same_and_leaves_no_trace(data: LatentDataset, model: MultiScaleNextDiT) -> None:
    validation = Validation(VideoWorkload(toy.stage(), data), 16, 0, 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model.train()
    first = validation.run(model, torch.float32, CPU)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    assert validation.run(model, torch.float32, CPU) == first
    assert not model.training


def test_a_loss_is_that_of_the_clip_alone(data: LatentDataset, model: MultiScaleNextDiT) -> None:
    config = toy.stage(tasks=(toy.FINE.model_copy(update={"latent_frames": 2, "micro_batch_size": None}),))
    validation = Validation(VideoWorkload(config, data), 16, 0, 1)
    seen: list[float] = []
    for _, samples in validation._mine:
        for sample in samples:
            batch = validation._workload.held_out_batch([sample])
            assert batch.x_1[0].shape[1] == 2
            assert torch.equal(batch.x_1[0], data.latent(sample.clip)[:, :2])
            assert torch.equal(batch.text[0], data.text(sample.clip.text_id))
            assert batch.motion.tolist() == [3.5]
            u = sample.quantile
            assert batch.t.item() == pytest.approx(u / (u + 2 - 2 * u))
            seen.append(Objective(config, data).losses(model, batch, torch.float32, CPU).total.item())
    assert len(seen) == 5 * len(QUANTILES)
    assert _run(data, model, config)["val/fine"] == pytest.approx(sum(seen) / len(seen), rel=1e-5)


def test_what_training_never_gives_is_not_given(data: LatentDataset) -> None:
    config = toy.stage(prompt_drop=1, motion_drop=1, image_still=0, t_distribution="lognormal")
    for _, samples in Validation(VideoWorkload(config, data), 16, 0, 1)._mine:
        batch = VideoWorkload(config, data).held_out_batch(samples)
        assert set(batch.motion.tolist()) == {DROPPED}
        assert not any(text.any() for text in batch.text)
        middle = [t for t, sample in zip(batch.t.tolist(), samples, strict=True) if sample.quantile == 0.5]
        assert middle == pytest.approx([1 / (1 + samples[0].task.time_shift)] * len(middle))


def test_clips_are_chosen_per_source_and_media_whatever_their_order(
    data: LatentDataset, model: MultiScaleNextDiT, tmp_path: Path
) -> None:
    def chosen(found: LatentDataset) -> list[str]:
        samples = Validation(VideoWorkload(toy.stage(), found), 1, 0, 1)._samples
        clips: dict[str, Clip] = {sample.clip.clip_id: sample.clip for sample in samples}
        assert Counter((clip.source, clip.media) for clip in clips.values()) == {
            (source, media): 1 for source in ("web", "synthetic") for media in ("image", "video")
        }
        return list(clips)

    reverse = _write(tmp_path, reverse=True)
    assert chosen(data) == chosen(reverse)
    assert _run(data, model, toy.stage(), 1) == _run(reverse, model, toy.stage(), 1)


def test_no_held_out_clips_give_nothing(model: MultiScaleNextDiT, data: LatentDataset, tmp_path: Path) -> None:
    assert _run(data, model, toy.stage(), 0) == {}
    latents, text = toy.write(tmp_path)
    images = toy.stage(tasks=(toy.IMAGE,))
    # The only held-out clip of the toy is a video.
    assert _run(LatentDataset([latents], text), model, images) == {}


def test_a_clip_that_a_task_cannot_cut_is_named_before_training(data: LatentDataset) -> None:
    task = toy.FINE.model_copy(update={"latent_frames": 8})
    with pytest.raises(ValueError, match=r"task fine: held-out clip clip00\d of bucket .* needs 8 frames"):
        Validation(VideoWorkload(toy.stage(tasks=(task,)), data), 16, 0, 1)


def test_a_pass_has_no_more_than_one_of_the_training(data: LatentDataset) -> None:
    tokens = toy.COARSE.model_copy(update={"micro_batch_tokens": 20})
    validation = Validation(VideoWorkload(toy.stage(tasks=(toy.FINE, tokens)), data), 16, 0, 1)
    for _, samples in validation._mine:
        batch = validation._workload.held_out_batch(samples)
        assert len({x.shape for x in batch.x_1}) == 1
        assert len(samples) == 1 if samples[0].task.name == "fine" else batch.tokens <= 20


def _validate(root: Path) -> None:
    rank, config = dist.get_rank(), toy.stage(initialisation="conditioned")
    validation = Validation(
        VideoWorkload(config, LatentDataset([root / "latents"], root / "text")), 16, rank, dist.get_world_size()
    )
    torch.save(validation.run(initial_model(config, None), torch.float32, CPU), root / f"{rank}.pt")


def test_three_workers_see_exactly_what_one_sees(tmp_path: Path, model: MultiScaleNextDiT) -> None:
    data = _write(tmp_path)
    torch.set_num_threads(1)
    alone = _run(data, model, toy.stage(initialisation="conditioned"))
    run_group(3, _validate, tmp_path, store=tmp_path / "store")
    for rank in range(3):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == alone
