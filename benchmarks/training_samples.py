"""Clips while training: what share of the demo's training time they take at its default, and that they change no bit.

    python benchmarks/training_samples.py [--steps 30]

Trains the network of `lumina run demo` as stage `train.2` does, on drawn latents of its size, with one worker: seconds
of a step, and of one look at the clips, warm. The share is that of all looks in the time of all steps of the config.
The reference is the same training without clips, in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from lumina import checkpoints
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.sample_config import SamplePlan
from lumina.training.samples import VideoSamples
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from pipelines.config import PipelineConfig, load_config
from pipelines.sampling import sample_plans
from tests.lumina.training import toy


class _Timed(VideoSamples):
    """Tells how long each look took."""

    seconds: list[float] = []  # noqa: RUF012

    def make(self, step: int, model: object, device: torch.device) -> None:
        begun = time.perf_counter()
        super().make(step, model, device)
        self.seconds.append(time.perf_counter() - begun)


def _train(config: TrainStageConfig, data: LatentDataset, work: Path, plan: SamplePlan | None) -> tuple[float, str]:
    settings = LoopSettings(work=work / "work", log_every=10_000, validation_clips=0)
    trainer = Trainer(VideoWorkload(config, data), settings, None, plan and (lambda *at: _Timed(plan, work, *at)))
    begun = time.perf_counter()
    trainer.run()
    spent = time.perf_counter() - begun
    trainer.export(work / "out")
    return spent, checkpoints.digest({"": checkpoints.load_weights(work / "out" / "transformer")})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    config = load_config("demo")
    if not isinstance(config, PipelineConfig):
        raise TypeError("the demo is a text-to-video run")
    plans = sample_plans(config, ("handheld", "synthetic", "web"))
    toy.CHANNELS, toy.TEXT_WIDTH = 16, 128
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        latents, text = toy.write(root / "toy", 64, 0)
        data = LatentDataset([latents], text)
        settings = config.train["2"].trained.model_dump(exclude={"latents"})
        stage = TrainStageConfig.model_validate(settings | {"steps": steps, "warmup_steps": 0})
        plan = plans["train.2"].model_copy(update={"every": max(1, steps // 3)})
        _train(stage.model_copy(update={"steps": 3}), data, root / "warm", None)
        alone, without = _train(stage, data, root / "alone", None)
        _, sampled = _train(stage, data, root / "sampled", plan)
    looks = sorted(_Timed.seconds[1:])
    step, look = alone / steps, looks[len(looks) // 2]
    stages = config.training()
    every_look = sum(
        one.due(at, stages[key].steps) for key, one in plans.items() for at in range(stages[key].steps + 1)
    )
    every_step = sum(one.steps for one in stages.values())
    share = every_look * look / (every_step * step)
    first = f"{look:.2f} s (the first, with the networks to load, {_Timed.seconds[0]:.1f} s)"
    print(f"a step takes {1000 * step:.0f} ms, a look with {sum(map(len, plan.batches()))} clips {first}")
    print(f"{every_look} looks in {every_step} steps of the demo take {share:.1%} of the time of training without")
    print("digest as without clips" if sampled == without else "THE DIGEST DIFFERS")


if __name__ == "__main__":
    main()
