"""The training loop: Algorithm 1 of the paper on a DeepSpeed engine, resumable bit for bit.

It runs under any launcher that has set up torch.distributed, or alone in a process; it knows nothing of Ray.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lumina import checkpoints
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.randomness import generator
from lumina.training import resume
from lumina.training.ema import Ema
from lumina.training.engine import STATE, Engine
from lumina.training.initialisation import condition_from_the_start
from lumina.training.latents import LatentDataset
from lumina.training.metrics import LossMeter, MetricsFile
from lumina.training.objective import Objective
from lumina.training.stage import TrainStageConfig

logger = logging.getLogger(__name__)

BIN_EVERY = 10
"""Logged points between two reports of the loss per t-bin."""

REFUSED = "refused.txt"
"""File in the work directory with a line for every checkpoint that was passed over."""

PUBLISHED = {"transformer": "weights", "transformer_ema": "ema"}
"""Directory of published weights, and the line of the engine checkpoint that they are cut from."""


class TrainingStoppedError(RuntimeError):
    """Training cannot go on, and a restart would end at the same place."""


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs; nothing in here changes the weights that come out."""

    work: Path
    """Checkpoints and `metrics.jsonl` are kept here, on storage that all workers share."""
    checkpoint_every: int = 100
    """Optimizer steps between two engine checkpoints."""
    keep_checkpoints: int = 2
    """Newest engine checkpoints that stay."""
    milestone_every: int | None = None
    """Optimizer steps between two engine checkpoints that stay for good."""
    log_every: int = 10
    """Optimizer steps between two lines of `metrics.jsonl`."""
    validate_every: int = 500
    """Optimizer steps between two looks at held-out clips."""
    validation_clips: int = 16
    """Held-out clips per source and media that a look takes; 0 takes none."""
    prefetch: int = 4
    """Micro-batches prepared ahead."""
    activation_checkpointing: Literal["none", "per-op", "full"] = "none"
    """What the backward pass computes again; see `MultiScaleNextDiT.checkpoint_blocks`."""
    peak_tflops: float | None = None
    """Peak of this worker's device in 10^12 operations a second; None looks up known GPUs."""
    device: str = "cpu"
    """Torch name of the device that the network runs on."""


@dataclass
class _Clock:
    """What this worker did since the last report, in seconds and numbers."""

    started: float = 0.0
    data: float = 0.0
    steps: int = 0
    tokens: int = 0


class Trainer:
    """One worker of one training stage."""

    def __init__(
        self, config: TrainStageConfig, dataset: LatentDataset, settings: LoopSettings, init: Path | None = None
    ) -> None:
        """Set up the engine and continue from the newest whole checkpoint in `settings.work`, if there is one.

        `init` is the directory of a saved transformer that the stage starts from; None draws weights by the stage's
        seed. The checkpoint may be of another number of workers.
        Raises ValueError if the data or `init` do not fit the config.
        """
        _ensure_process_group()
        self.config = config
        self.settings = settings
        self.init = init
        self.device = torch.device(settings.device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.objective = Objective(config, dataset)
        self.tasks = [dataset.of_task(task, config) for task in config.tasks]
        self.engine = Engine(config, _trained_model(config, init, settings), fused=self.device.type == "cuda")
        self.ema = Ema([self.engine.weights], config.ema_decay, config.ema_warmup)
        self.meter = LossMeter([task.name for task in config.tasks], self.device)
        self.clock = _Clock()
        self.writer = _Writer()
        self.step = self._resume()
        self.metrics = MetricsFile(settings.work / "metrics.jsonl", self.step) if self.rank == 0 else None

    def run(self) -> None:
        """Train until `config.steps`. Raises TrainingStoppedError when a loss or the gradient is not finite."""
        config, settings = self.config, self.settings
        self.clock = _Clock(started=time.perf_counter())
        try:
            while self.step < config.steps:
                # 1. One optimizer step over the micro-batches of every task.
                self._optimizer_step(self.step)
                self.step += 1
                # 2. The averaged weights follow.
                if self.step % config.ema_every == 0:
                    self.ema.update([self.engine.weights], self.step // config.ema_every - 1)
                # 3. Tell what happened since the last report.
                if self.step % settings.log_every == 0 or self.step == config.steps:
                    self._report()
                # 4. Leave a point to continue from.
                if self._saves():
                    self._save()
        finally:
            if self.metrics:
                self.metrics.close()
            self.writer.finish()

    def export(self, out: Path) -> None:
        """Write the last weights to `out/transformer` and their average to `out/transformer_ema`, milestones to
        `out/milestones/step-.../`. Every worker calls it, after `run`."""
        self.writer.finish()
        dist.barrier()
        if self.rank == 0:
            for checkpoint in resume.complete(self._checkpoints):
                if checkpoint.step == self.config.steps:
                    publish(self.config, checkpoint, self.init, out)
                elif self.settings.milestone_every and checkpoint.step % self.settings.milestone_every == 0:
                    publish(self.config, checkpoint, self.init, out / "milestones" / checkpoint.path.name)
        dist.barrier()

    def _optimizer_step(self, step: int) -> None:
        engine = self.engine
        engine.set_learning_rate(self.config.learning_rate(step))
        # The order of tasks and the number of passes are equal on all workers: they reduce gradients together.
        passes = [
            (index, data, slots)
            for index, data in enumerate(self.tasks)
            if data.task.takes_part(step)
            for slots in data.plan.micro_batches(step, self.rank, self.world)
        ]
        seen: list[tuple[str, tuple[str, ...], Tensor]] = []
        for number, (index, data, slots) in enumerate(passes):
            begun = time.perf_counter()
            batch = self.objective.micro_batch(step, data.task, data.items(slots))
            self.clock.data += time.perf_counter() - begun
            items = self.objective.losses(engine, batch, self.dtype, self.device)
            # The engine averages gradients over workers; so the sum below is the mean over the task's global batch.
            engine.backward(items.total.sum() * (self.world / data.task.batch_size), last=number == len(passes) - 1)
            self.meter.add(index, items, batch.t)
            self.clock.tokens += batch.tokens
            seen.append((data.task.name, batch.clip_ids, items.total.detach()))
        self.clock.steps += 1
        self._check(step, seen)

    def _check(self, step: int, seen: list[tuple[str, tuple[str, ...], Tensor]]) -> None:
        """Stop on what is not finite, with one wait for the device per step."""
        norm = self.engine.grad_norm()
        self.meter.add_step(norm)
        total = torch.stack([loss.sum() for _, _, loss in seen]).sum()
        if bool(torch.isfinite(total)) and bool(torch.isfinite(norm)) and self.engine.skipped_steps == 0:
            return
        for task, clip_ids, loss in seen:
            bad = [clip for clip, value in zip(clip_ids, loss.tolist(), strict=True) if not math.isfinite(value)]
            if bad:
                raise TrainingStoppedError(
                    f"step {step}, task {task}: the loss of clip {', '.join(bad)} is not finite. Look at these "
                    "latents, or lower lr"
                )
        clips = ", ".join(f"{task}: {' '.join(clip_ids)}" for task, clip_ids, _ in seen)
        raise TrainingStoppedError(
            f"step {step}: the gradient norm is {float(norm)} with finite losses on worker {self.rank} ({clips}). "
            "Lower lr, or look at the other workers' errors"
        )

    def _report(self) -> None:
        now = time.perf_counter()
        values = self.meter.report()
        # Counted from the end, so that the last bins are as full as any.
        if (self.config.steps - self.step) // self.settings.log_every % BIN_EVERY == 0:
            values.update(self.meter.report_bins())
        seconds = max(now - self.clock.started, 1e-9)
        values["lr"] = self.config.learning_rate(self.step - 1)
        values["tokens_per_second"] = self.clock.tokens * self.world / seconds
        values["seconds_per_step"] = seconds / self.clock.steps
        values["data_share"] = self.clock.data / seconds
        if self.metrics:
            self.metrics.write(self.step, values)
        self.clock = _Clock(started=now)

    def _saves(self) -> bool:
        settings = self.settings
        return (
            self.step == self.config.steps
            or self.step % settings.checkpoint_every == 0
            or bool(settings.milestone_every and self.step % settings.milestone_every == 0)
        )

    @property
    def _checkpoints(self) -> Path:
        return self.settings.work / "engine"

    def _save(self) -> None:
        """Copy this worker's share, and let it be written while training goes on."""
        [ema] = self.ema.shards
        live = {**self.engine.state(), "ema": ema}
        live.update({f"meter.{name}": value for name, value in self.meter.state().items()})
        share = {name: value.detach().to("cpu", copy=True) for name, value in live.items()}
        step, layout = self.step, self.engine.layout

        def write() -> None:
            resume.write_share(self._checkpoints, step, self.rank, self.world, share, layout)
            if self.rank == 0:
                resume.prune(self._checkpoints, self.settings.keep_checkpoints, self.settings.milestone_every)

        self.writer.submit(write)

    def _resume(self) -> int:
        """Load the newest whole checkpoint; return the optimizer steps it has behind it."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        found = self._newest()
        step = found.step if found else 0
        if self.rank == 0:
            resume.remove_after(self._checkpoints, step)
        dist.barrier()
        if found is None:
            return 0
        if found.layout() != self.engine.layout:
            raise TrainingStoppedError(
                f"{found.path} holds other tensors than this stage trains: remove {self._checkpoints} to start it over"
            )
        start, length = self.engine.offset, len(self.engine.weights)
        self.engine.restore({name: resume.read_piece(found, name, start, length) for name in STATE}, step)
        self.ema.restore([resume.read_piece(found, "ema", start, length)])
        self._restore_meter(found)
        logger.info("resuming from %s", found.path)
        return step

    def _newest(self) -> resume.EngineCheckpoint | None:
        """The newest checkpoint that every worker finds whole; the workers share the work of reading it all."""
        for found in self._same_everywhere(resume.complete(self._checkpoints)):
            faults = torch.zeros(1, device=self.device)
            try:
                for rank in range(self.rank, found.world, self.world):
                    resume.verify_share(found, rank)
                found.layout()
            except resume.DamagedCheckpointError as error:
                faults += 1
                refuse(self.settings.work, f"{error}: using the checkpoint before it")
            dist.all_reduce(faults)
            if not faults:
                return found
        return None

    def _same_everywhere(self, found: list[resume.EngineCheckpoint]) -> list[resume.EngineCheckpoint]:
        """What the first worker found: a file system may show the others something older."""
        count = torch.tensor([len(found)], device=self.device)
        dist.broadcast(count, src=0)
        told = torch.tensor([(one.step, one.world) for one in found] or [(0, 0)], device=self.device)
        told = told if self.rank == 0 else torch.zeros(max(1, int(count)), 2, dtype=told.dtype, device=self.device)
        dist.broadcast(told, src=0)
        root = self._checkpoints
        return [
            resume.EngineCheckpoint(resume.step_directory(root, step), step, world)
            for step, world in told[: int(count)].tolist()
        ]

    def _restore_meter(self, found: resume.EngineCheckpoint) -> None:
        """Take over the sums of the workers whose place this one has: with fewer workers than before, of several."""
        own = self.meter.state()
        for value in own.values():
            value.zero_()
        for rank in range(self.rank, found.world, self.world):
            saved = resume.read_small(found, rank, [f"meter.{name}" for name in own])
            for name, value in own.items():
                value += saved[f"meter.{name}"].to(value.device)


class _Writer:
    """Runs one job at a time beside the loop. What goes wrong in it is raised by the next call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job, once the one before has ended."""
        self.finish()
        self._job = self._executor.submit(job)

    def finish(self) -> None:
        """Wait for the job."""
        job, self._job = self._job, None
        if job is not None:
            job.result()


def publish(config: TrainStageConfig, checkpoint: resume.EngineCheckpoint, init: Path | None, out: Path) -> None:
    """Write a checkpoint's weights to `out/transformer` and their average to `out/transformer_ema`."""
    for folder, line in PUBLISHED.items():
        weights = resume.read_tensors(checkpoint, line)
        if (out / folder).exists():
            # A worker group that failed after its export has been here.
            shutil.rmtree(out / folder)
        checkpoints.save_weights(config.model, weights, out / folder)


def refuse(work: Path, message: str) -> None:
    """Say that a checkpoint was passed over, also to whoever follows `work`."""
    logger.warning(message)
    with (work / REFUSED).open("a", encoding="utf-8") as file:
        file.write(message + "\n")


def initial_model(config: TrainStageConfig, init: Path | None) -> MultiScaleNextDiT:
    """Return the float32 network that a stage starts from.

    Raises ValueError if the weights in `init` are of another network than the config's.
    """
    if init is None:
        rng = torch.Generator().manual_seed(int(generator(config.seed, "init").integers(2**63)))
        model = MultiScaleNextDiT(config.model, rng)
        if config.initialisation == "conditioned":
            condition_from_the_start(model, rng)
        return model
    model = checkpoints.load_model(init, torch.device("cpu"), torch.float32)
    if model.config != config.model:
        raise ValueError(
            f"{init} holds {model.config}, but this stage's model is {config.model}: stages that build on "
            "one another need the same model"
        )
    return model


def _trained_model(config: TrainStageConfig, init: Path | None, settings: LoopSettings) -> MultiScaleNextDiT:
    model = initial_model(config, init)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _ensure_process_group() -> None:
    """Make this process a world of its own, unless a launcher has set up a larger one."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
