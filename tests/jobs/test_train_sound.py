"""A sound's training stage: what a worker gets, what is refused before any starts, and what a worker writes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import train, train_sound
from jobs.context import InputRef, JobContext
from jobs.runtime import RuntimeConfig
from lumina import checkpoints
from lumina.files import read_jsonl
from lumina.training import resume
from lumina.training.loop_config import LoopSettings
from lumina.training.trainer import Trainer
from lumina.training.weights.start import initial_model
from lumina.video_to_audio.checkpoints import load_weights
from lumina.video_to_audio.training.stage import SoundStageConfig
from lumina.video_to_audio.training.workload import SoundWorkload
from tests.lumina.training import toy as video_toy
from tests.lumina.video_to_audio.training import toy

_OPEN = train_sound._open


class PipelineStageConfig(SoundStageConfig):
    """As a pipeline has it: with a field that the stage does not know."""

    more: str = ""


def _context(root: Path, **changes: Any) -> JobContext:
    toy.write(root)
    (root / "out").mkdir()
    config = PipelineStageConfig.model_validate(toy.stage(**changes).model_dump())
    return JobContext(
        stage="train@1",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=RuntimeConfig(train_workers=2, checkpoint_every=5, log_every=2),
        inputs={name: InputRef(name, root / name, "") for name in toy.TABLES},
        weights={},
        media_root="",
        out=root / "out",
        work=root / "work",
        progress=lambda *_: None,
        log_metrics=lambda *_: None,
    )


def test_a_stage_is_trained_written_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = _context(tmp_path, clips="aligned", batch_size=2)
    # In this process instead of Ray's.
    monkeypatch.setattr(train, "_fit_to_the_end", lambda _, spec: train._worker(spec))
    result = train_sound.run(ctx)
    assert result.metrics["train/clips"] == result.metrics["train/clips/web"] == 2
    assert result.metrics["train/last_loss/sound"] > 0
    assert result.metrics["train/val/sound"] > 0
    assert {"metrics.jsonl", "plots/training.html"} <= set(result.artifacts)
    weights = {name: load_weights(ctx.out / folder) for name, folder in result.weights.items()}
    assert checkpoints.digest(weights) == result.digest
    assert read_jsonl(ctx.out / "metrics.jsonl")[-1]["step"] == 6
    # The next stage goes on from there.
    before = InputRef("train@1", tmp_path / "before", "")
    shutil.copytree(ctx.out, before.path)
    again = replace(ctx, inputs={**ctx.inputs, "init": before}, work=tmp_path / "work2", out=tmp_path / "out2")
    again.out.mkdir()
    assert train_sound.run(again).digest != result.digest


def _open_and_die_once(spec: Mapping[str, Any]) -> Any:
    """A workload whose process is killed at the first pass after a checkpoint."""
    workload, work = _OPEN(spec), Path(spec["settings"]["work"])
    count = workload.flops

    def flops(batch: Any) -> int:
        if not (work / "died").exists() and resume.complete(work / "engine"):
            (work / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return int(count(batch))

    workload.flops = flops
    return workload


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_of_ray_that_dies_ends_with_the_bits_of_a_run_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    runtime = RuntimeConfig(train_workers=1, checkpoint_every=5, log_every=2)
    ctx = replace(_context(tmp_path, steps=12), runtime=runtime, log_metrics=lambda _, step: rows.append(step))
    monkeypatch.setattr(train_sound, "_open", _open_and_die_once)
    result = train_sound.run(ctx)
    assert (ctx.work / "died").exists()
    assert rows == list(range(2, 13, 2))
    settings = LoopSettings(work=tmp_path / "alone", checkpoint_every=5, log_every=2)
    alone = Trainer(SoundWorkload(toy.stage(steps=12), toy.dataset(tmp_path)), settings)
    alone.run()
    alone.export(tmp_path / "alone" / "out")
    folders = {name: tmp_path / "alone" / "out" / folder for name, folder in result.weights.items()}
    assert checkpoints.digest({name: load_weights(folder) for name, folder in folders.items()}) == result.digest


def test_what_cannot_run_starts_nothing(tmp_path: Path) -> None:
    ctx = _context(tmp_path)
    checkpoints.save_model(initial_model(video_toy.stage(), None), tmp_path / "video")
    wider = toy.MODEL.model_copy(update={"text_tokens": 77})
    for changed, message in (
        ({"runtime": RuntimeConfig(train_workers=5)}, "batch_size 4 is smaller than the number of workers"),
        ({"inputs": {}}, "needs inputs sounds, visual, sync, captions"),
        ({"weights": {"init": str(tmp_path / "video")}}, "holds a text-to-video transformer"),
        ({"config": toy.stage(clips="loud")}, "no clip to train on is of the set loud"),
        ({"config": toy.stage(model=wider)}, "set model.text_tokens and model.text_dim"),
    ):
        with pytest.raises(ValueError, match=message):
            train_sound.run(replace(ctx, **changed))
    assert not ctx.work.exists()
