"""The loop on a toy problem: it learns, it resumes to the same bits, it stops where it must."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina import checkpoints
from lumina.adapters import load_adapted
from lumina.files import read_jsonl
from lumina.training import resume
from lumina.training.data.latents import LatentDataset
from lumina.training.determinism import CUBLAS
from lumina.training.loop_config import LoopSettings
from lumina.training.metrics import mean_bins
from lumina.training.trainer import Trainer, TrainingStoppedError
from lumina.training.video_workload import VideoWorkload
from lumina.training.weights.start import initial_model
from tests.lumina.training import toy
from tests.lumina.training.reference import TELLING, plain_adamw, write_start


class Killed(Exception):
    """Stands in for a kill -9."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    latents, text = toy.write(tmp_path_factory.mktemp("toy"))
    return LatentDataset([latents], text)


def _settings(work: Path, **changes: Any) -> LoopSettings:
    return LoopSettings(**{"work": work, "checkpoint_every": 4, "log_every": 3, **changes})


def _digest(trainer: Trainer, out: Path) -> str:
    trainer.export(out)
    names = ("transformer", "transformer_ema")
    return checkpoints.digest({name: checkpoints.load_weights(out / name) for name in names})


def _losses(work: Path) -> list[dict[str, float]]:
    timed = ("tokens_per", "samples_per", "seconds_per", "data_share", "flop")
    return [{key: row[key] for key in row if not key.startswith(timed)} for row in read_jsonl(work / "metrics.jsonl")]


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "zero_stage": 2, "optimizer": "muon"}])
def test_a_killed_run_ends_with_the_same_bits(
    data: LatentDataset, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.stage(steps=10, **changes)
    undisturbed = Trainer(VideoWorkload(config, data), _settings(tmp_path / "a"))
    undisturbed.run()
    expected = _digest(undisturbed, tmp_path / "out_a")

    step = Trainer._optimizer_step
    for fatal in (7, 9):

        def die(trainer: Trainer, number: int, batches: Any, fatal: int = fatal) -> None:
            if number == fatal:
                raise Killed
            step(trainer, number, batches)

        monkeypatch.setattr(Trainer, "_optimizer_step", die)
        with pytest.raises(Killed):
            Trainer(VideoWorkload(config, data), _settings(tmp_path / "b")).run()
    monkeypatch.undo()
    resumed = Trainer(VideoWorkload(config, data), _settings(tmp_path / "b"))
    assert resumed.step == 8
    resumed.run()
    assert _digest(resumed, tmp_path / "out_b") == expected
    assert _losses(tmp_path / "b") == _losses(tmp_path / "a")
    assert [row["step"] for row in _losses(tmp_path / "b")] == [3, 6, 9, 10]
    # A run that was killed after its last step has nothing left to do but to export.
    done = Trainer(VideoWorkload(config, data), _settings(tmp_path / "b"))
    assert done.step == 10
    done.run()
    assert _digest(done, tmp_path / "out_c") == expected


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_a_run_is_algorithm_1(data: LatentDataset, tmp_path: Path, zero_stage: int) -> None:
    config, init = TELLING.model_copy(update={"zero_stage": zero_stage}), write_start(tmp_path / "init")
    expected = plain_adamw(config, data, init)
    assert min(expected.norms) < config.grad_clip < max(expected.norms)
    trainer = Trainer(VideoWorkload(config, data), _settings(tmp_path, log_every=1), init)
    trainer.run()
    trainer.export(tmp_path / "out")
    for folder, wanted in (("transformer", expected.weights), ("transformer_ema", expected.average)):
        found = checkpoints.load_weights(tmp_path / "out" / folder)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6, msg=f"{folder} {name}")
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["grad_norm"] for row in rows] == pytest.approx(expected.norms, rel=1e-5)
    for row, told in zip(rows, expected.losses, strict=True):
        assert {key: row[key] for key in row if key.startswith(("loss/", "mse/", "vd/"))} == pytest.approx(told, 1e-4)
    for task, bins in expected.bins.items():
        assert mean_bins(rows, task) == pytest.approx({at: fmean(bins[at]) for at in bins}, rel=1e-4)


def test_losses_fall_on_a_problem_that_the_text_solves(data: LatentDataset, tmp_path: Path) -> None:
    Trainer(VideoWorkload(toy.stage(steps=60), data), _settings(tmp_path, checkpoint_every=1000)).run()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    for task in ("image", "fine", "coarse"):
        assert rows[-1][f"loss/{task}"] < 0.7 * rows[0][f"loss/{task}"]
    assert {key.split("/")[1] for key in rows[-1] if key.startswith("t_bin/")} == {"image", "fine", "coarse"}
    assert rows[-1]["loss"] == pytest.approx(sum(rows[-1][f"loss/{task}"] for task in ("image", "fine", "coarse")))


def test_a_loss_that_is_not_finite_stops_with_step_task_and_clip(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path / "toy", videos=2, images=2, bad_clip="clip001")
    trainer = Trainer(VideoWorkload(toy.stage(), LatentDataset([latents], text)), _settings(tmp_path / "work"))
    with pytest.raises(TrainingStoppedError, match=r"step 0, task fine: the loss of clip clip001"):
        trainer.run()


def test_a_stage_starts_from_another_and_refuses_other_networks(data: LatentDataset, tmp_path: Path) -> None:
    first = Trainer(VideoWorkload(toy.stage(steps=2), data), _settings(tmp_path / "first"))
    first.run()
    first.export(tmp_path / "checkpoint")
    second = Trainer(
        VideoWorkload(toy.stage(steps=1), data),
        _settings(tmp_path / "second"),
        init=tmp_path / "checkpoint" / "transformer",
    )
    weights = checkpoints.load_weights(tmp_path / "checkpoint" / "transformer")
    assert checkpoints.digest({"": second.engine.module.state_dict()}) == checkpoints.digest({"": weights})
    wider = toy.MODEL.model_copy(update={"n_layers": 2})
    with pytest.raises(ValueError, match="need the same model"):
        Trainer(
            VideoWorkload(toy.stage(model=wider), data),
            _settings(tmp_path / "third"),
            init=tmp_path / "checkpoint" / "transformer",
        )


def _cut_short(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.truncate(100)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _pickle(file: Path) -> None:
    torch.save({"weights": torch.zeros(4)}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (_cut_short, r"has 100 bytes, but \d+ were written"),
        (_flip, "has another digest than was written"),
        (_pickle, r"has \d+ bytes, but \d+ were written: it is a pickle or a zip file, not safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(
    data: LatentDataset, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    Trainer(VideoWorkload(toy.stage(steps=6), data), _settings(tmp_path, checkpoint_every=2)).run()
    engine = tmp_path / "engine"
    assert sorted(path.name for path in engine.iterdir()) == ["step-00000004", "step-00000006"]
    file = engine / "step-00000006" / "worker-00000-of-00001.safetensors"
    damage(file)
    assert Trainer(VideoWorkload(toy.stage(steps=6), data), _settings(tmp_path)).step == 4
    [line] = (tmp_path / "refused.txt").read_text().splitlines()
    assert re.search(rf"{file} {message}.*: using the checkpoint before it", line)


@pytest.fixture
def algorithms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave torch's choice of algorithms as it was."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.delenv(CUBLAS, raising=False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("algorithms")
def test_recomputing_preparing_ahead_and_asking_for_the_same_bits_change_none(
    data: LatentDataset, tmp_path: Path
) -> None:
    digests = set()
    for number, changes in enumerate(
        (
            {},
            {"prefetch": 0},
            {"reading_threads": 3},
            {"activation_checkpointing": "per-op"},
            {"activation_checkpointing": "full"},
            {"deterministic": True},
        )
    ):
        assert not torch.are_deterministic_algorithms_enabled()
        trainer = Trainer(VideoWorkload(toy.stage(), data), _settings(tmp_path / str(number), **changes))
        trainer.run()
        digests.add(_digest(trainer, tmp_path / f"out{number}"))
    assert len(digests) == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    # cuBLAS has no other way to give the same bits in several streams.
    assert os.environ[CUBLAS] == ":4096:8"


def test_when_checkpoints_are_written_changes_no_bit(data: LatentDataset, tmp_path: Path) -> None:
    digests, written = set(), []
    for number, changes in enumerate(
        (
            {"checkpoint_every": 4},
            {"checkpoint_every": None, "checkpoint_every_s": 0, "checkpoint_share": 1},
            {"checkpoint_every": None},
        )
    ):
        work = tmp_path / str(number)
        trainer = Trainer(VideoWorkload(toy.stage(), data), _settings(work, keep_checkpoints=9, **changes))
        trainer.run()
        digests.add(_digest(trainer, tmp_path / f"out{number}"))
        written.append([checkpoint.step for checkpoint in resume.complete(work / "engine")])
    assert len(digests) == 1
    assert written[0] == [6, 4]
    assert len(written[1]) > 2
    # Seconds of training are not worth a checkpoint, but the last weights are.
    assert written[2] == [6]


def test_host_memory_holds_the_state_once(data: LatentDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    places = set()
    take, write = resume.HostCopy.take, resume.write_share

    def copying(self: resume.HostCopy, live: Mapping[str, Tensor]) -> Any:
        events.append("copy")
        return take(self, live)

    def writing(*args: Any) -> None:
        time.sleep(0.01)
        places.add(tuple(value.data_ptr() for value in args[4].values()))
        write(*args)
        events.append("written")

    monkeypatch.setattr(resume.HostCopy, "take", copying)
    monkeypatch.setattr(resume, "write_share", writing)
    Trainer(VideoWorkload(toy.stage(steps=5), data), _settings(tmp_path, checkpoint_every=1)).run()
    assert events == ["copy", "written"] * 5
    assert len(places) == 1


def test_held_out_clips_are_looked_at_between_and_at_the_end(data: LatentDataset, tmp_path: Path) -> None:
    Trainer(VideoWorkload(toy.stage(steps=8), data), _settings(tmp_path, validate_every=5)).run()
    rows = {row["step"]: row for row in read_jsonl(tmp_path / "metrics.jsonl")}
    assert list(rows) == [3, 5, 6, 8]
    for step in (5, 8):
        assert rows[step]["val/fine/web"] == rows[step]["val/fine"] > 0
    assert "loss" not in rows[5]
    assert not [key for key in rows[6] if key.startswith("val")]


def test_milestones_stay_and_are_published(data: LatentDataset, tmp_path: Path) -> None:
    trainer = Trainer(
        VideoWorkload(toy.stage(steps=10), data), _settings(tmp_path, checkpoint_every=2, milestone_every=3)
    )
    with pytest.raises(ValueError, match="engine has no checkpoint of step 10: train to the end"):
        trainer.export(tmp_path / "out")
    trainer.run()
    kept = sorted(path.name for path in (tmp_path / "engine").iterdir())
    assert kept == [f"step-{step:08d}" for step in (3, 6, 9, 10)]
    # While training went on: the workers, who wait for one another at the end, wait for the last weights alone.
    published = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "milestones").iterdir()}
    assert set(kept[:2]) <= set(published) <= set(kept[:-1])
    for attempt in ("out", "out", "other"):
        trainer.export(tmp_path / attempt)
        found = {path.name: path.stat().st_mtime_ns for path in (tmp_path / attempt / "milestones").iterdir()}
        assert sorted(found) == kept[:-1]
        assert not list((tmp_path / "milestones").iterdir())
    short = Trainer(VideoWorkload(toy.stage(steps=6), data), _settings(tmp_path / "short"))
    short.run()
    short.export(tmp_path / "short" / "out")
    pair = (tmp_path / "out" / "milestones" / "step-00000006", tmp_path / "short" / "out")
    for name in ("transformer", "transformer_ema"):
        first, second = (checkpoints.digest({"": checkpoints.load_weights(path / name)}) for path in pair)
        assert first == second


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_alone_are_trained_resumed_and_merged(data: LatentDataset, tmp_path: Path, precision: str) -> None:
    first = Trainer(VideoWorkload(toy.stage(steps=2), data), _settings(tmp_path / "first"))
    first.run()
    first.export(tmp_path / "start")
    init = tmp_path / "start" / "transformer"
    config = toy.stage(steps=8, lora={"rank": 2, "targets": ["wq", "w2"]}, precision=precision)
    whole = Trainer(VideoWorkload(config, data), _settings(tmp_path / "whole", keep_checkpoints=9), init)
    assert sum(map(math.prod, whole.engine.layout.shapes)) < 1000
    whole.run()
    expected = _digest(whole, tmp_path / "out")
    base, tuned = checkpoints.load_weights(init), checkpoints.load_weights(tmp_path / "out" / "transformer")
    moved = {name for name, value in base.items() if not torch.equal(value, tuned[name])}
    assert moved == {"layers.0.attention.wq.weight", "layers.0.feed_forward.w2.weight"}
    assert {path.name for path in (tmp_path / "out" / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "merged.json",
    }
    for folder in ("transformer", "transformer_ema"):
        adapter = tmp_path / "out" / folder.replace("transformer", "adapter")
        beside = load_adapted(init, adapter, 1.0, "cpu", None).state_dict()
        merged = checkpoints.load_weights(tmp_path / "out" / folder)
        assert all(torch.equal(value, merged[name]) for name, value in beside.items())
        with pytest.raises(ValueError, match=f"{folder} has the adapter .*{adapter.name} merged already: leave it out"):
            load_adapted(tmp_path / "out" / folder, adapter, 0.5, "cpu", None)
        load_adapted(tmp_path / "out" / folder, adapter, 0.0, "cpu", None)
    for record in (tmp_path / "whole" / "engine" / "step-00000008").glob("*.json"):
        record.unlink()
    resumed = Trainer(VideoWorkload(config, data), _settings(tmp_path / "whole"), init)
    assert resumed.step == 4
    resumed.run()
    assert _digest(resumed, tmp_path / "again") == expected


def test_bfloat16_training_starts_from_the_float32_weights(data: LatentDataset, tmp_path: Path) -> None:
    config = toy.stage(precision="bf16")
    trainer = Trainer(VideoWorkload(config, data), _settings(tmp_path))
    wanted = torch.cat([value.flatten() for value in initial_model(config, None).parameters()])
    assert torch.equal(trainer.engine.weights[: len(wanted)], wanted)
    assert trainer.engine.module.dtype == torch.bfloat16


def test_other_tensors_in_a_checkpoint_are_refused(data: LatentDataset, tmp_path: Path) -> None:
    Trainer(VideoWorkload(toy.stage(steps=2), data), _settings(tmp_path)).run()
    wider = toy.MODEL.model_copy(update={"n_layers": 2})
    with pytest.raises(TrainingStoppedError, match=r"step-00000002 holds other tensors than this stage trains: remove"):
        Trainer(VideoWorkload(toy.stage(steps=2, model=wider), data), _settings(tmp_path))
