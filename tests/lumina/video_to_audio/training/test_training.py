"""Training on sounds by the one loop: it learns, resumes to the same bits, and draws by address alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from curation.schema import MEDIA_FEATURES
from lumina import checkpoints
from lumina.files import read_jsonl
from lumina.training.data.index import FEATURES
from lumina.training.loop_config import LoopSettings
from lumina.training.trainer import Trainer
from lumina.training.weights.start import initial_model
from lumina.video_to_audio import checkpoints as sound_checkpoints
from lumina.video_to_audio.training.dataset import SoundDataset
from lumina.video_to_audio.training.workload import SoundWorkload
from tests.lumina.training import toy as video_toy
from tests.lumina.training.group import run_group
from tests.lumina.training.reference import spread
from tests.lumina.video_to_audio.training import toy


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sounds")
    toy.write(found)
    return found


@pytest.fixture(scope="module")
def data(root: Path) -> SoundDataset:
    return toy.dataset(root)


def _train(config: Any, data: SoundDataset, work: Path, init: Path | None = None, **changes: Any) -> Trainer:
    settings = LoopSettings(**{"work": work, "checkpoint_every": 4, "log_every": 3, **changes})
    return Trainer(SoundWorkload(config, data, init), settings, init)


def _digest(trainer: Trainer, out: Path) -> str:
    trainer.export(out)
    names = ("transformer", "transformer_ema")
    return checkpoints.digest({name: sound_checkpoints.load_weights(out / name) for name in names})


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "zero_stage": 2}])
def test_a_killed_run_ends_with_the_same_bits(data: SoundDataset, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = toy.stage(steps=8, **changes)
    whole = _train(config, data, tmp_path / "a", keep_checkpoints=9)
    whole.run()
    expected = _digest(whole, tmp_path / "out")
    # As if it had been killed after step 4.
    shutil.rmtree(tmp_path / "a" / "engine" / "step-00000008")
    resumed = _train(config, data, tmp_path / "a")
    assert resumed.step == 4
    resumed.run()
    assert _digest(resumed, tmp_path / "again") == expected
    model = sound_checkpoints.load_dit(tmp_path / "out" / "transformer_ema")
    assert model.latent_mean.flatten().tolist() == [1.0, 1.0]
    assert model.latent_std.dtype == torch.float32
    row = read_jsonl(tmp_path / "a" / "metrics.jsonl")[-1]
    assert {"loss/sound", "val/sound", "val/sound/web", "val/sound/film", "val_t/sound/0.5"} <= set(row)
    assert row["loss/sound"] == pytest.approx(row["mse/sound"])
    assert row["flops_per_second"] > 0


def test_losses_fall_where_what_is_seen_tells_the_sound(data: SoundDataset, tmp_path: Path) -> None:
    _train(toy.stage(steps=60, lr=3e-3, vd_weight=0.1), data, tmp_path, checkpoint_every=1000).run()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss/sound"] < 0.7 * rows[0]["loss/sound"]


def test_draws_are_of_their_address_and_drops_of_their_rates(data: SoundDataset) -> None:
    clips = list(data.clips)
    workload = SoundWorkload(toy.stage(media_drop=0.5, text_drop=0.25), data)
    task = workload.config.task
    together = workload.objective.micro_batch(3, task, list(enumerate(clips)))
    for place, clip in enumerate(clips):
        alone = workload.objective.micro_batch(3, task, [(place, clip)])
        for name in ("x_1", "x_0", "t"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[place])
        posterior = data.posterior(clip)
        # The mean is 1 and the deviation 2 of all latents, and a clip's is 0.1.
        assert alone.x_1[0].mean().item() == pytest.approx((posterior.mean.mean().item() - 1) / 2, abs=0.03)
        assert alone.x_1[0].std().item() == pytest.approx(0.05, rel=0.3)
        later = workload.objective.micro_batch(4, task, [(place, clip)])
        assert not any(torch.equal(getattr(alone, name)[0], getattr(later, name)[0]) for name in ("x_1", "x_0", "t"))
    media = [workload.objective.micro_batch(step, task, [(0, clips[0])]).media[0] for step in range(400)]
    assert all((one.visual is None) == (one.sync is None) for one in media)
    assert sum(one.visual is None for one in media) / 400 == pytest.approx(0.5, abs=0.08)
    assert sum(one.text is None for one in media) / 400 == pytest.approx(0.25, abs=0.07)
    assert sum(one.text is None and one.visual is None for one in media) / 400 == pytest.approx(0.125, abs=0.05)


def _worker(root: Path, work: Path, out: Path) -> None:
    trainer = _train(toy.stage(steps=8, media_drop=0.5, text_drop=0.5), toy.dataset(root), work)
    trainer.run()
    trainer.export(out)


def test_two_workers_whose_clips_lack_other_features_train_as_one(root: Path, tmp_path: Path) -> None:
    for world in (1, 2):
        place = tmp_path / str(world)
        run_group(world, _worker, root, place, place / "out", store=tmp_path / f"store{world}")
    one, two = (sound_checkpoints.load_weights(tmp_path / str(world) / "out" / "transformer") for world in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4, msg=name)
    start = SoundWorkload(toy.stage(), toy.dataset(root)).model(None, "none")
    assert not torch.equal(one["null_text"], start.null_text)
    assert not torch.equal(one["null_sync"], start.null_sync)


def test_a_stage_trains_on_its_set_and_starts_from_another(root: Path, data: SoundDataset, tmp_path: Path) -> None:
    first = _train(toy.stage(steps=2), data, tmp_path / "first")
    start = first.workload.model(None, "none")
    assert torch.equal(start.null_text, data.null_text())  # type: ignore[arg-type]
    first.run()
    first.export(tmp_path / "out")
    aligned = toy.dataset(root, "aligned")
    assert [clip.clip_id for clip in aligned.clips] == ["clip001", "clip003"]
    assert len(aligned.heldout) == len(data.heldout) == 2
    init = tmp_path / "out" / "transformer"
    second = _train(toy.stage(steps=2, clips="aligned"), aligned, tmp_path / "second", init)
    begun = {name: value.clone() for name, value in second.engine.module.state_dict().items()}
    assert checkpoints.digest({"": begun}) == checkpoints.digest({"": sound_checkpoints.load_weights(init)})
    second.run()
    wider = toy.MODEL.model_copy(update={"n_layers": 2})
    with pytest.raises(ValueError, match="need the same model"):
        _train(toy.stage(model=wider), data, tmp_path / "third", init)
    with pytest.raises(ValueError, match="is of the set loud; the sounds have aligned, all"):
        toy.dataset(root, "loud")


def test_checkpoints_of_the_other_kind_are_refused(data: SoundDataset, tmp_path: Path) -> None:
    sound_checkpoints.save_dit(SoundWorkload(toy.stage(), data).model(None, "none"), tmp_path / "sound")
    checkpoints.save_model(spread(initial_model(video_toy.stage(), None)), tmp_path / "video")
    with pytest.raises(ValueError, match="holds a text-to-video transformer, but a video-to-audio one is needed"):
        sound_checkpoints.load_dit(tmp_path / "video")
    with pytest.raises(ValueError, match="holds a video-to-audio transformer, but a text-to-video one is needed"):
        checkpoints.load_model(tmp_path / "sound")


def test_what_does_not_fit_the_model_is_told_before_training(data: SoundDataset, tmp_path: Path) -> None:
    for changes, message in (
        ({"patch": (3, 2)}, r"clip clip001 of bucket 16 has 16 latent steps, which patch \[3, 2\]"),
        (
            {"latent_rows": 8},
            r"clip clip\d+ has a latent of shape \[2, 2, \d+, 4\], but the model takes",
        ),
        ({"visual_dim": 7}, r"visual features of shape \[5, 6\], but the model takes \[n, 7\]: set model.visual_dim"),
        ({"text_tokens": 77}, r"shape \[5, 5\], but the model takes \[77, 5\]: set model.text_tokens"),
        ({"in_channels": 3}, "mean of 2 channels, but the model has 3"),
    ):
        config = toy.stage(model=toy.MODEL.model_copy(update=changes))
        with pytest.raises(ValueError, match=message):
            _train(config, data, tmp_path)


def test_clips_without_features_are_left_out_and_counted(tmp_path: Path) -> None:
    toy.write(tmp_path)
    seen = pq.read_table(tmp_path / "visual" / "data" / "part-0.parquet").to_pylist()
    seen[1]["status"] = "quarantined"
    toy.rewrite(tmp_path / "visual", seen, MEDIA_FEATURES, FEATURES)
    data = toy.dataset(tmp_path)
    assert [clip.clip_id for clip in data.clips] == ["clip000", "clip002", "clip003"]
    assert data.left_out["without visual features"] == 1
