"""Clips while a model trains: not a bit of the training changes, none is made twice, and workers share them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina import checkpoints
from lumina.evaluation.prompts import ShapesSuite
from lumina.flow_matching.schedules import SamplerConfig
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.sample_config import FOLDER, SampleConfig, SamplePlan
from lumina.training.samples import VideoSamples, batch_record, read_batch
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from tests.lumina.training import toy
from tests.lumina.training.group import run_group

ZOO = Path(checkpoints.__file__).parent / "zoo"
MODEL = toy.MODEL.model_copy(update={"in_channels": 16, "cap_feat_dim": 128})


class Killed(Exception):
    """Stands in for a kill -9."""


def plan(**changes: Any) -> SamplePlan:
    """Two prompts under two system prompts, a batch of each."""
    values = {
        "every": 3,
        "prompts": SampleConfig(every=3, prompts=ShapesSuite(count=2)).plan_prompts(),
        "seeds": (0,),
        "sampler": SamplerConfig(steps=2),
        "system_prompts": {"web": "Web. <Prompt Start> ", "clean": "Clean. <Prompt Start> "},
        "num_frames": 8,
        "height": 32,
        "width": 32,
        "fps": 8.0,
        "batch_size": 2,
        "vae": str(ZOO / "vae"),
        "text_encoder": str(ZOO / "text_encoder"),
    }
    return SamplePlan.model_validate({**values, **changes})


def config(**changes: Any) -> TrainStageConfig:
    """A stage of one task."""
    return toy.stage(**{"steps": 7, "model": MODEL, "tasks": (toy.FINE,), "ema_every": 1, **changes})


def write_data(root: Path) -> tuple[Path, Path]:
    """Latents and texts of the widths that the shipped networks have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "CHANNELS", 16)
        patch.setattr(toy, "TEXT_WIDTH", 128)
        return toy.write(root, images=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_data(tmp_path_factory.mktemp("toy"))


def _trainer(data: tuple[Path, Path], work: Path, made: SamplePlan | None, **changes: Any) -> Trainer:
    workload = VideoWorkload(config(**changes), LatentDataset([data[0]], data[1]))
    # The clips must be no draw from torch's own numbers either.
    settings = LoopSettings(work=work, checkpoint_every=2, activation_checkpointing="full")
    return Trainer(workload, settings, None, made and (lambda *place: VideoSamples(made, work, *place)))


def _digest(trainer: Trainer, out: Path) -> str:
    trainer.run()
    trainer.export(out)
    return checkpoints.digest(
        {name: checkpoints.load_weights(out / name) for name in ("transformer", "transformer_ema")}
    )


def _bytes(work: Path) -> dict[str, str]:
    """Digest of every file of the clips."""
    files = sorted(path for path in (work / FOLDER).rglob("*") if path.suffix in (".png", ".mp4"))
    return {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_not_a_bit_changes_also_when_killed_and_no_clip_is_made_twice(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    without = _digest(_trainer(data, tmp_path / "none", None), tmp_path / "out-none")
    drawn = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert _digest(_trainer(data, tmp_path / "a", plan()), tmp_path / "out-a") == without
    assert torch.equal(torch.random.get_rng_state(), drawn)
    steps = sorted(path.name for path in (tmp_path / "a" / FOLDER).iterdir())
    assert steps == ["step-00000000", "step-00000003", "step-00000006", "step-00000007"]
    # The weights get on, and so do the clips.
    rows = [read_batch(tmp_path / "a" / FOLDER, step, 0, plan().key) for step in (0, 3, 6, 7)]
    assert len({row["frames_sha256"] for batch in rows for row in batch or ()}) == 8

    made: list[tuple[str, str]] = []
    clips = VideoSamples._clips

    def dying(self: VideoSamples, folder: Path, batch: Any, *rest: Any) -> list[dict[str, Any]]:
        found = clips(self, folder, batch, *rest)
        if folder.name == "step-00000006" and batch[0].source == "clean" and len(made) < 6:
            # All files are there, but for the record that says so.
            made.append(("", ""))
            raise Killed
        made.append((folder.name, batch[0].source))
        return found

    monkeypatch.setattr(VideoSamples, "_clips", dying)
    with pytest.raises(Killed):
        _digest(_trainer(data, tmp_path / "b", plan()), tmp_path / "out-b")
    assert not batch_record(tmp_path / "b" / FOLDER, 6, 1).exists()
    resumed = _trainer(data, tmp_path / "b", plan())
    assert resumed.step == 4
    assert _digest(resumed, tmp_path / "out-b") == without
    told = [one for one in made if one[0]]
    assert len(told) == len(set(told)) == 8
    assert _bytes(tmp_path / "b") == _bytes(tmp_path / "a")


def test_bf16_lora_and_zero_2_keep_their_bits(data: tuple[Path, Path], tmp_path: Path) -> None:
    changes: Mapping[str, Any] = {"steps": 3, "precision": "bf16", "zero_stage": 2, "lora": {"rank": 2}}
    without = _digest(_trainer(data, tmp_path / "none", None, **changes), tmp_path / "out-none")
    one = plan(every=1, system_prompts={"web": "Web. <Prompt Start> "})
    assert _digest(_trainer(data, tmp_path / "a", one, **changes), tmp_path / "out-a") == without


def test_workers_share_the_clips_and_make_the_same_bytes(data: tuple[Path, Path], tmp_path: Path) -> None:
    model = _trainer(data, tmp_path / "model", None).engine.module.eval()
    for world in (1, 2, 3):
        shares = [VideoSamples(plan(), tmp_path / f"{world}", rank, world) for rank in range(world)]
        # A third worker has nothing to do, and must still take part in what all do together.
        assert [share.due(3, 7) and share.wanted(3) for share in shares] == [True, True, False][:world]
        assert not any(share.due(2, 7) for share in shares)
        for share in shares:
            share.make(3, model, torch.device("cpu"))
            assert not share.wanted(3)
    assert len(_bytes(tmp_path / "1")) == 8
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2") == _bytes(tmp_path / "3")


class Seen:
    """Samples that tell which weights they were given; the last worker alone has something to make."""

    def __init__(self, path: Path, rank: int, world: int) -> None:
        self.path, self.last = path, rank == world - 1

    def due(self, step: int, steps: int) -> bool:
        return step == steps

    def wanted(self, step: int) -> bool:
        return self.last

    def make(self, step: int, model: Any, device: torch.device) -> None:
        assert not model.training
        if self.last:
            # They are views of one line of numbers.
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            checkpoints.save_weights(model.config, weights, self.path)


def _train(stage: TrainStageConfig, latents: Path, text: Path, work: Path, seen: Path) -> None:
    workload = VideoWorkload(stage, LatentDataset([latents], text))
    trainer = Trainer(workload, LoopSettings(work=work), None, lambda *place: Seen(seen, *place))
    _digest(trainer, work / "out")


def test_two_workers_gather_the_averaged_weights(data: tuple[Path, Path], tmp_path: Path) -> None:
    run_group(2, _train, config(steps=3), *data, tmp_path / "work", tmp_path / "seen", store=tmp_path / "store")
    average = checkpoints.load_weights(tmp_path / "work" / "out" / "transformer_ema")
    seen = checkpoints.load_weights(tmp_path / "seen")
    assert checkpoints.digest({"": seen}) == checkpoints.digest({"": average})
