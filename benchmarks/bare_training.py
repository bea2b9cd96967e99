"""CPU time of a step of the training loop, against the barest loop that trains the same network on the same data.

    python benchmarks/bare_training.py

The bare loop holds all latents and features in memory, and draws clips, noise and times from one generator; it has
torch's AdamW and clipping, adds an average up every fifth step, and looks at a loss every tenth. What it leaves out is
what the trainer is there for: batches that depend on no worker, reading, gradients and state in shares, losses by time,
checkpoints, a stop on what is not finite. Stage 3 of the demo: images and videos at three scales, float32, one thread.
The loops take turns in one process; CPU time counts the trainer's other threads. (`training.py` compares with a loop in
the released style.)
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from lumina.models.config import NextDiTConfig
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.stage import TaskConfig, TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from lumina.training.weights.start import trained_model

CLIPS, WIDTH = 64, 128
"""Images, and as many videos; numbers of a text feature."""
TASKS = (
    TaskConfig(name="image", media="image", patch=(1, 2, 2), time_shift=2, batch_size=8),
    TaskConfig(name="video-1x2", media="video", patch=(1, 2, 2), time_shift=4, batch_size=16),
    TaskConfig(name="video-2x2", media="video", patch=(2, 2, 2), time_shift=4, batch_size=16),
    TaskConfig(name="video-2x4", media="video", patch=(2, 4, 4), time_shift=8, batch_size=16),
)
MODEL = NextDiTConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, multiple_of=64, cap_feat_dim=WIDTH, rope_theta=0.5)
AIM = 1.1


def write(root: Path) -> LatentDataset:
    """Clips of the demo's shapes, with features of 10 to 20 tokens."""
    rng, rows, texts = np.random.default_rng(0), [], []
    for number in range(2 * CLIPS):
        media, frames = ("image", 1) if number < CLIPS else ("video", 5)
        row = {"clip_id": f"{number:04}", "status": "ok", "split": "train", "media": media, "source": "web"}
        row |= {"bucket": f"64x64x{4 * frames - 3}", "text_id": str(number), "text_id_dropped": str(number)}
        row |= {"vae_latent_shape": [16, frames, 8, 8], "vae_latent_dtype": "float32", "motion_score": 1.0}
        rows.append(row | {"vae_latent_bytes": rng.standard_normal(1024 * frames, np.float32).tobytes()})
        shape = [10 + number % 11, WIDTH]
        text = {"text_id": str(number), "status": "ok", "text_feature_shape": shape, "text_feature_dtype": "float32"}
        texts.append(text | {"text_feature_bytes": rng.standard_normal(shape, np.float32).tobytes()})
    for name, table in (("latents", rows), ("text", texts)):
        (root / name / "data").mkdir(parents=True)
        [column] = [key for key in table[0] if key.endswith("_bytes")]
        found = pa.Table.from_pylist(table)
        found = found.set_column(found.column_names.index(column), column, found[column].cast(pa.large_binary()))
        pq.write_table(found, root / name / "data" / "0.parquet", row_group_size=4, compression="none")
    return LatentDataset([root / "latents"], root / "text")


class Bare:
    """The bare loop."""

    def __init__(self, config: TrainStageConfig, model: torch.nn.Module, data: LatentDataset) -> None:
        self.config, self.model = config, model
        self.average = [parameter.detach().clone() for parameter in model.parameters()]
        self.optimizer = torch.optim.AdamW(model.parameters(), config.lr, config.betas, config.eps, config.weight_decay)
        self.clips = {
            media: [(data.latent(clip).float(), data.text(clip.text_id)) for clip in data.clips if clip.media == media]
            for media in ("image", "video")
        }
        self.draw = torch.Generator().manual_seed(0)
        self.steps = 0

    def losses(self, x_1: Tensor, x_0: Tensor, t: Tensor, text: Sequence[Tensor], motion: Tensor, patch: Any) -> Tensor:
        """Total loss of each item."""
        at = t.view(-1, 1, 1, 1, 1)
        predicted, target = self.model(at * x_1 + (1 - at) * x_0, t, text, motion, patch).flatten(1), x_1 - x_0
        target = target.flatten(1)
        cosine = F.cosine_similarity(predicted, target, dim=1)
        return (predicted - target).square().mean(1) + self.config.vd_weight * (1 - cosine)

    def step(self) -> None:
        """One optimizer step over the batches of every task."""
        for task in self.config.tasks:
            clips = self.clips[task.media]
            chosen = torch.randint(len(clips), (task.batch_size,), generator=self.draw).tolist()
            x_1 = torch.stack([clips[index][0] for index in chosen])
            x_0 = torch.randn(x_1.shape, generator=self.draw)
            u = torch.rand(len(x_1), generator=self.draw)
            t = u / (u + task.time_shift - task.time_shift * u)
            motion = torch.full((len(x_1),), 1.0 if task.media == "video" else 0.0)
            loss = self.losses(x_1, x_0, t, [clips[index][1] for index in chosen], motion, task.patch).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.steps % self.config.ema_every == 0:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list(self.model.parameters()), 1 - self.config.ema_decay)
        if self.steps % 10 == 0:
            loss.item()


class InTurns(Trainer):
    """The trainer, which after every `length` steps lets the bare loop do as many."""

    def prepare(self, bare: Bare, length: int) -> None:
        """Set up the turns; call it once, before `run`."""
        self.bare, self.length = bare, length
        self.ours: list[float] = []
        self.bares: list[float] = []
        """CPU seconds of a step in each turn."""
        self._made: list[Any] = []
        self._taken = 0
        self._begun = 0.0

    def _micro_batch(self, one: Any) -> Any:
        made = super()._micro_batch(one)
        self._made.append(one)  # by several threads
        return made

    def _optimizer_step(self, step: int, batches: Iterator[Any]) -> None:
        if step % self.length == 0:
            # Turns begin with as many batches in hand as they end with; none is made before the first is asked for.
            while step and len(self._made) < min(self._taken + self.settings.prefetch, len(TASKS) * self.config.steps):
                time.sleep(1e-3)
            self.ours.append((time.process_time() - self._begun) / self.length)
            begun = time.process_time()
            for _ in range(self.length):
                self.bare.step()
            self.bares.append((time.process_time() - begun) / self.length)
            self._begun = time.process_time()
        self._taken += len(TASKS)
        super()._optimizer_step(step, batches)


def check(trainer: Trainer, bare: Bare) -> None:
    """SystemExit if the losses of one batch differ by more than rounding."""
    for data in trainer.tasks:
        chosen = data.items(data.plan.micro_batches(0, 0, 1)[0])
        batch = trainer.objective.micro_batch(0, data.task, chosen)
        with torch.no_grad():
            ours = trainer.objective.losses(trainer.engine.module, batch, torch.float32, torch.device("cpu")).total
            x_1, x_0 = torch.stack(batch.x_1), torch.stack(batch.x_0)
            other = bare.losses(x_1, x_0, batch.t, batch.text, batch.motion, batch.patch)
        if not torch.allclose(ours, other, rtol=1e-4):
            raise SystemExit(f"task {data.task.name}: the losses differ, so there is nothing to compare")


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=10, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=9, help="turns of each loop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # The first turn warms up, and the last ends where a next would start.
    steps = args.length * (args.turns + 1) + 1
    config = TrainStageConfig(
        steps=steps, tasks=TASKS, model=MODEL, lr=2e-4, ema_decay=0.95, ema_every=5, precision="fp32"
    )
    with tempfile.TemporaryDirectory() as name:
        data = write(Path(name))
        trainer = InTurns(VideoWorkload(config, data), LoopSettings(work=Path(name) / "work", validation_clips=0))
        bare = Bare(config, copy.deepcopy(trained_model(config, None, "none")), data)
        check(trainer, bare)
        trainer.prepare(bare, args.length)
        trainer.run()
    ours, bares = trainer.ours[2:], trainer.bares[2:]
    print(f"load {os.getloadavg()[0]:.1f}; CPU ms a step, median [least, most] of {len(ours)} turns")
    for loop, took in (("ours", ours), ("bare", bares)):
        print(f"{loop:5} {spread([1e3 * one for one in took], '.0f')}")
    ratios = [one / other for one, other in zip(ours, bares, strict=True)]
    print(f"ours over the bare loop: {spread(ratios, '.2f')} of its CPU (aim {AIM})")


if __name__ == "__main__":
    main()
