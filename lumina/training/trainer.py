"""The training loop: Algorithm 1 of the paper on a DeepSpeed engine, resumable bit for bit.

It runs under any launcher that has set up torch.distributed, or alone in a process; it knows nothing of Ray.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina import checkpoints
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.randomness import generator
from lumina.training import resume
from lumina.training.ema import Ema
from lumina.training.initialisation import condition_from_the_start
from lumina.training.latents import LatentDataset
from lumina.training.metrics import LossMeter, MetricsFile
from lumina.training.objective import Objective
from lumina.training.stage import TrainStageConfig

logger = logging.getLogger(__name__)

BIN_EVERY = 10
"""Logged points between two reports of the loss per t-bin."""

_ENGINE_TAG = "engine"


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
        """Set up the engine and continue from the newest complete checkpoint in `settings.work`, if there is one.

        `init` is a checkpoint directory whose weights the stage starts from; None draws them by the stage's seed.
        Raises ValueError if the data or `init` do not fit the config, or the checkpoint is of another world size.
        """
        _ensure_process_group()
        self.config = config
        self.settings = settings
        self.device = torch.device(settings.device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.objective = Objective(config, dataset)
        self.tasks = [dataset.of_task(task, config) for task in config.tasks]
        self.engine = _engine(config, initial_model(config, init))
        self.ema = Ema(self._masters, config.ema_decay, config.ema_warmup)
        self.meter = LossMeter([task.name for task in config.tasks], self.device)
        self.clock = _Clock()
        self.step = self._resume()
        self.metrics = MetricsFile(settings.work / "metrics.jsonl", self.step) if self.rank == 0 else None

    def run(self) -> None:
        """Train until `config.steps`. Raises TrainingStoppedError when a loss or the gradient is not finite."""
        config, settings = self.config, self.settings
        self.clock = _Clock(started=time.perf_counter())
        while self.step < config.steps:
            # 1. One optimizer step over the micro-batches of every task.
            self._optimizer_step(self.step)
            self.step += 1
            # 2. The averaged weights follow.
            if self.step % config.ema_every == 0:
                self.ema.update(self._masters, self.step // config.ema_every - 1)
            # 3. Tell what happened since the last report.
            if self.step % settings.log_every == 0 or self.step == config.steps:
                self._report()
            # 4. Leave a point to continue from.
            if self.step % settings.checkpoint_every == 0 or self.step == config.steps:
                self._save()
        if self.metrics:
            self.metrics.close()

    def export(self, out: Path) -> None:
        """Write the weights to `out/transformer` and their average to `out/transformer_ema`. Every worker calls it."""
        raw = self._gather()
        with self.ema.swapped_into(self._masters):
            average = self._gather()
        if self.rank == 0:
            for name, weights in (("transformer", raw), ("transformer_ema", average)):
                if (out / name).exists():
                    # A worker group that failed after its export has been here.
                    shutil.rmtree(out / name)
                checkpoints.save_weights(self.config.model, weights, out / name)
        dist.barrier()

    def _optimizer_step(self, step: int) -> None:
        engine = self.engine
        rate = self.config.learning_rate(step)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        # The order of tasks and the number of passes are equal on all workers: they reduce gradients together.
        passes = [
            (index, data, slots)
            for index, data in enumerate(self.tasks)
            for slots in data.plan.micro_batches(step, self.rank, self.world)
        ]
        seen: list[tuple[str, tuple[str, ...], Tensor]] = []
        for number, (index, data, slots) in enumerate(passes):
            begun = time.perf_counter()
            batch = self.objective.micro_batch(step, data.task, data.items(slots))
            self.clock.data += time.perf_counter() - begun
            items = self.objective.losses(engine, batch, self.dtype, self.device)
            engine.set_gradient_accumulation_boundary(number == len(passes) - 1)
            # The engine averages gradients over workers; so the sum below is the mean over the task's global batch.
            engine.backward(items.total.sum() * (self.world / data.task.batch_size))
            engine.step()
            self.meter.add(index, items, batch.t)
            self.clock.tokens += batch.tokens
            seen.append((data.task.name, batch.clip_ids, items.total.detach()))
        self.clock.steps += 1
        self._check(step, seen)

    def _check(self, step: int, seen: list[tuple[str, tuple[str, ...], Tensor]]) -> None:
        """Stop on what is not finite, with one wait for the device per step."""
        norm = torch.as_tensor(self.engine.get_global_grad_norm())
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

    @property
    def _masters(self) -> list[Tensor]:
        """This worker's shards of the float32 weights."""
        return list(self.engine.optimizer.single_partition_of_fp32_groups)

    def _gather(self) -> dict[str, Tensor]:
        """Return all float32 weights by name, on the CPU. Every worker must call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        named = self.engine.module.named_parameters()
        return {name: safe_get_full_fp32_param(parameter).to("cpu", copy=True) for name, parameter in named}

    @property
    def _checkpoints(self) -> Path:
        return self.settings.work / "engine"

    def _save(self) -> None:
        path = resume.step_directory(self._checkpoints, self.step)
        self.engine.save_checkpoint(
            str(path), tag=_ENGINE_TAG, client_state={"stage_step": self.step}, save_latest=False
        )
        own = {f"ema.{index}": shard for index, shard in enumerate(self.ema.shards)}
        own.update({f"meter.{name}": value for name, value in self.meter.state().items()})
        save_file(
            {name: value.contiguous().cpu() for name, value in own.items()}, path / f"worker{self.rank}.safetensors"
        )
        dist.barrier()
        if self.rank == 0:
            resume.prune(self._checkpoints, resume.mark_complete(path, self.step, self.world))

    def _resume(self) -> int:
        """Load the newest complete checkpoint; return the optimizer steps it has behind it."""
        found = resume.newest(self._checkpoints) if self.rank == 0 else None
        choice = torch.tensor([found.step, found.world] if found else [0, 0], device=self.device)
        dist.broadcast(choice, src=0)
        step, world = choice.tolist()
        if self.rank == 0:
            self.settings.work.mkdir(parents=True, exist_ok=True)
            resume.prune(self._checkpoints, found)
        if not step:
            return 0
        path = resume.step_directory(self._checkpoints, step)
        if world != self.world:
            raise TrainingStoppedError(
                f"{path} was written by {world} workers and this run has {self.world}: set runtime.train_workers to "
                f"{world}, or remove {self._checkpoints} to start the stage over"
            )
        loaded, _ = self.engine.load_checkpoint(str(path), tag=_ENGINE_TAG)
        if loaded is None:
            raise TrainingStoppedError(f"{path}: the engine could not load it; remove it to use the one before")
        own = load_file(path / f"worker{self.rank}.safetensors")
        self.ema.restore([own[f"ema.{index}"] for index in range(len(self.ema.shards))])
        self.meter.restore({name: own[f"meter.{name}"] for name in self.meter.state()})
        logger.info("resuming from %s", path)
        return step


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
    model = checkpoints.load_model(init / "transformer", torch.device("cpu"), torch.float32)
    if model.config != config.model:
        raise ValueError(
            f"{init}/transformer holds {model.config}, but this stage's model is {config.model}: stages that build on "
            "one another need the same model"
        )
    return model


def _engine(config: TrainStageConfig, model: MultiScaleNextDiT) -> Any:
    """Wrap the model in a DeepSpeed engine with AdamW; no compiler is needed."""
    # Read when deepspeed is imported: which device of the node is this worker's.
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    import deepspeed.ops

    if not torch.cuda.is_available():
        # On the CPU it would be compiled at the first start, and gloo does without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Said by torch about a call of DeepSpeed's, at every step.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*deprecated", category=FutureWarning)
    bucket = sum(parameter.numel() for parameter in model.parameters())
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        config={
            # One accumulation step, whose end the loop marks itself: else the engine would divide the losses.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": config.grad_clip,
            "steps_per_print": 10**9,
            "bf16": {"enabled": config.precision == "bf16"},
            "zero_optimization": {
                "stage": config.zero_stage,
                "reduce_bucket_size": min(bucket, 500_000_000),
                "allgather_bucket_size": min(bucket, 500_000_000),
            },
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": config.lr,
                    "betas": list(config.betas),
                    "eps": config.eps,
                    "weight_decay": config.weight_decay,
                    "torch_adam": True,
                },
            },
        },
    )
    return engine


def _ensure_process_group() -> None:
    """Make this process a world of its own, unless a launcher has set up a larger one."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
