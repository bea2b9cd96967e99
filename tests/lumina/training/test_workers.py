"""One worker and several: the same samples, the same numbers within rounding, and checkpoints for one another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from lumina import checkpoints
from lumina.files import read_jsonl
from lumina.training import resume
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.objective import MicroBatch, Objective
from lumina.training.stage import TaskConfig, TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from tests.lumina.training import toy
from tests.lumina.training.group import run_group, train

# The released epsilon, 1e-15, would make the rounding noise of gradients that are almost 0 into full steps.
STEADY = {"lr": 1e-3, "eps": 1e-6}


def _watch(config: TrainStageConfig, latents: Path, text: Path, work: Path) -> None:
    """Train, and write down what every forward pass of this process was given."""
    seen = []
    draw = Objective.micro_batch

    def watching(self: Objective, step: int, task: TaskConfig, items: list) -> MicroBatch:  # type: ignore[type-arg]
        batch = draw(self, step, task, items)
        for (position, clip), x_0, t in zip(items, batch.x_0, batch.t.tolist(), strict=True):
            seen.append([step, task.name, position, clip.clip_id, t, checkpoints.digest({"": {"x_0": x_0}})])
        return batch

    Objective.micro_batch = watching  # type: ignore[method-assign]
    # As many checkpoints as their writing allows: each worker measures its own.
    often = {"checkpoint_every_s": 0.0, "checkpoint_share": 0.5, "keep_checkpoints": 99}
    Trainer(VideoWorkload(config, LatentDataset([latents], text)), LoopSettings(work=work, log_every=1, **often)).run()
    (work / f"seen-{dist.get_rank()}.json").write_text(json.dumps(seen))


def _seen(work: Path) -> list[list[object]]:
    return sorted(row for path in work.glob("seen-*.json") for row in json.loads(path.read_text()))


def _losses(work: Path) -> dict[float, float]:
    return {row["step"]: row["loss"] for row in read_jsonl(work / "metrics.jsonl")}


def test_one_worker_and_two_see_the_same_and_lose_the_same(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path / "toy")
    config = toy.stage(steps=15, **STEADY)
    for world in (1, 2):
        run_group(world, _watch, config, latents, text, tmp_path / str(world), store=tmp_path / f"store{world}")
    one, two = _seen(tmp_path / "1"), _seen(tmp_path / "2")
    assert len(one) == 15 * sum(task.batch_size for task in config.tasks)
    assert one == two
    first, second = _losses(tmp_path / "1"), _losses(tmp_path / "2")
    assert list(first) == list(range(1, 16))
    assert second == pytest.approx(first, rel=1e-5)
    # Those of two workers are at the same steps.
    found = resume.complete(tmp_path / "2" / "engine")
    assert len(found) == len(list((tmp_path / "2" / "engine").iterdir())) >= 2
    assert {checkpoint.world for checkpoint in found} == {2}


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_workers_takes_over_a_checkpoint(tmp_path: Path, before: int, after: int) -> None:
    latents, text = toy.write(tmp_path / "toy")
    config = toy.stage(steps=12, zero_stage=before, optimizer="adamw" if before == 2 else "muon", **STEADY)
    whole = LoopSettings(work=tmp_path / "whole", checkpoint_every=4, keep_checkpoints=9, log_every=1)
    run_group(before, train, config, latents, text, whole, None, store=tmp_path / "store")
    # As if it had been killed after step 4.
    for step in (8, 12):
        for record in (tmp_path / "whole" / "engine" / f"step-{step:08d}").glob("*.json"):
            record.unlink()
    expected = _losses(tmp_path / "whole")
    run_group(after, train, config, latents, text, whole, tmp_path / "out", store=tmp_path / "store2")
    continued = _losses(tmp_path / "whole")
    assert list(continued) == list(range(1, 13))
    assert [continued[step] for step in range(1, 5)] == [expected[step] for step in range(1, 5)]
    assert continued == pytest.approx(expected, rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["transformer", "transformer_ema"]
