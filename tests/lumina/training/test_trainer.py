"""The loop on a toy problem: it learns, it resumes to the same bits, it stops where it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina import checkpoints
from lumina.training.latents import LatentDataset
from lumina.training.metrics import read_metrics
from lumina.training.objective import Objective
from lumina.training.trainer import LoopSettings, Trainer, TrainingStoppedError, initial_model
from tests.lumina.training import toy


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
    timed = ("tokens_per_second", "seconds_per_step", "data_share")
    return [{key: row[key] for key in row if key not in timed} for row in read_metrics(work / "metrics.jsonl")]


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "zero_stage": 2}])
def test_a_killed_run_ends_with_the_same_bits(
    data: LatentDataset, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.stage(steps=10, **changes)
    undisturbed = Trainer(config, data, _settings(tmp_path / "a"))
    undisturbed.run()
    expected = _digest(undisturbed, tmp_path / "out_a")

    step = Trainer._optimizer_step
    for fatal in (7, 9):

        def die(trainer: Trainer, number: int, fatal: int = fatal) -> None:
            if number == fatal:
                raise Killed
            step(trainer, number)

        monkeypatch.setattr(Trainer, "_optimizer_step", die)
        with pytest.raises(Killed):
            Trainer(config, data, _settings(tmp_path / "b")).run()
    monkeypatch.undo()
    resumed = Trainer(config, data, _settings(tmp_path / "b"))
    assert resumed.step == 8
    resumed.run()
    assert _digest(resumed, tmp_path / "out_b") == expected
    assert _losses(tmp_path / "b") == _losses(tmp_path / "a")
    assert [row["step"] for row in _losses(tmp_path / "b")] == [3, 6, 9, 10]
    # A run that was killed after its last step has nothing left to do but to export.
    done = Trainer(config, data, _settings(tmp_path / "b"))
    assert done.step == 10
    done.run()
    assert _digest(done, tmp_path / "out_c") == expected


def test_losses_fall_on_a_problem_that_the_text_solves(data: LatentDataset, tmp_path: Path) -> None:
    Trainer(toy.stage(steps=60), data, _settings(tmp_path, checkpoint_every=1000)).run()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    for task in ("image", "fine", "coarse"):
        assert rows[-1][f"loss/{task}"] < 0.7 * rows[0][f"loss/{task}"]
    assert {key.split("/")[1] for key in rows[-1] if key.startswith("t_bin/")} == {"image", "fine", "coarse"}
    assert rows[-1]["loss"] == pytest.approx(sum(rows[-1][f"loss/{task}"] for task in ("image", "fine", "coarse")))


def test_a_loss_that_is_not_finite_stops_with_step_task_and_clip(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path / "toy", videos=2, images=2, bad_clip="clip001")
    trainer = Trainer(toy.stage(), LatentDataset([latents], text), _settings(tmp_path / "work"))
    with pytest.raises(TrainingStoppedError, match=r"step 0, task fine: the loss of clip clip001"):
        trainer.run()


def test_a_stage_starts_from_another_and_refuses_other_networks(data: LatentDataset, tmp_path: Path) -> None:
    first = Trainer(toy.stage(steps=2), data, _settings(tmp_path / "first"))
    first.run()
    first.export(tmp_path / "checkpoint")
    second = Trainer(toy.stage(steps=1), data, _settings(tmp_path / "second"), init=tmp_path / "checkpoint")
    second.export(tmp_path / "again")
    weights = [checkpoints.load_weights(tmp_path / name / "transformer") for name in ("checkpoint", "again")]
    assert checkpoints.digest({"": weights[0]}) == checkpoints.digest({"": weights[1]})
    wider = toy.MODEL.model_copy(update={"n_layers": 2})
    with pytest.raises(ValueError, match="need the same model"):
        Trainer(toy.stage(model=wider), data, _settings(tmp_path / "third"), init=tmp_path / "checkpoint")


def test_a_damaged_checkpoint_is_passed_over(data: LatentDataset, tmp_path: Path) -> None:
    Trainer(toy.stage(steps=6), data, _settings(tmp_path, checkpoint_every=2)).run()
    engine = tmp_path / "engine"
    assert sorted(path.name for path in engine.iterdir()) == ["step-00000004", "step-00000006"]
    with (engine / "step-00000006" / "worker0.safetensors").open("r+b") as file:
        file.truncate(100)
    assert Trainer(toy.stage(steps=6), data, _settings(tmp_path)).step == 4


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_a_step_equals_plain_adamw(data: LatentDataset, tmp_path: Path, zero_stage: int) -> None:
    # The released epsilon, 1e-15, would make the rounding noise of gradients that are almost 0 into full steps.
    config = toy.stage(steps=5, zero_stage=zero_stage, grad_clip=0.5, lr=1e-3, eps=1e-6)
    trainer = Trainer(config, data, _settings(tmp_path))
    model = initial_model(config, None)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, config.betas, config.eps, weight_decay=0.0)
    objective = Objective(config, data)
    for step in range(config.steps):
        total = torch.zeros(())
        for task in config.tasks:
            of_task = data.of_task(task, config)
            batch = objective.micro_batch(step, task, of_task.items(of_task.plan.batch(step)))
            total = total + objective.losses(model, batch, torch.float32, torch.device("cpu")).total.mean()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
    trainer.run()
    for name, parameter in trainer.engine.module.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=0, atol=1e-5, msg=name)
