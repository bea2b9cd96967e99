"""Run a function in several processes that train together, as a launcher would, without Ray."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lumina.training.data.latents import LatentDataset
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import LoopSettings, Trainer


def run_group(world: int, target: Callable[..., None], *args: Any, store: Path) -> None:
    """Call `target(*args)` in `world` processes of one gloo group that meets in the file `store`."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(rank, world, store, target, args)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * world


def train(
    config: TrainStageConfig,
    latents: Path,
    text: Path,
    settings: LoopSettings,
    out: Path | None,
    init: Path | None = None,
) -> None:
    """Train to the end, or on from a checkpoint, in each process."""
    trainer = Trainer(config, LatentDataset([latents], text), settings, init)
    trainer.run()
    if out is not None:
        trainer.export(out)


def _work(rank: int, world: int, store: Path, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
    target(*args)
    dist.destroy_process_group()
