"""Run a function in several processes that train together, as a launcher would, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload


def run_group(world: int, target: Callable[..., None], *args: Any, store: Path) -> None:
    """Call `target(*args)` in `world` processes of one gloo group that meets in the file `store`."""
    requests = _server()
    requests.send((world, store, target, args))
    assert requests.recv() == [0] * world


@cache
def _server() -> Connection:
    """A process that has imported what training needs, and forks: each import would take longer than the training."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()
    return ours


def _serve(requests: Connection) -> None:
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    torch.set_num_threads(1)
    import deepspeed  # noqa: F401

    while True:
        try:
            world, *group = requests.recv()
        except EOFError:
            return
        workers = [_fork(rank, world, *group) for rank in range(world)]
        requests.send([os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers])


def _fork(rank: int, world: int, store: Path, target: Callable[..., None], args: tuple[Any, ...]) -> int:
    worker = os.fork()
    if worker == 0:
        try:
            dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
            target(*args)
            dist.destroy_process_group()
            os._exit(0)
        except BaseException:  # noqa: BLE001  (its end is the end of the process)
            traceback.print_exc()
            os._exit(1)
    return worker


def train(
    config: TrainStageConfig,
    latents: Path,
    text: Path,
    settings: LoopSettings,
    out: Path | None,
    init: Path | None = None,
) -> None:
    """Train to the end, or on from a checkpoint, in each process."""
    trainer = Trainer(VideoWorkload(config, LatentDataset([latents], text)), settings, init)
    trainer.run()
    if out is not None:
        trainer.export(out)
