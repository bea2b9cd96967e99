"""The training loop: Algorithm 1 of the paper on a DeepSpeed engine, resumable bit for bit (on GPUs if asked).

It runs under any launcher that has set up torch.distributed, or alone in a process; it knows nothing of Ray.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.checkpoints import write_whole
from lumina.hardware import gpu_of_device
from lumina.training import resume
from lumina.training.checkpoint_interval import CheckpointInterval
from lumina.training.clock import StepClock
from lumina.training.data.batches import Slot
from lumina.training.data.prefetch import prefetched
from lumina.training.determinism import give_the_same_bits
from lumina.training.done import Done, TrainingStoppedError
from lumina.training.ema import Ema
from lumina.training.engine import STATE, Engine
from lumina.training.loop_config import METRICS_FILE, LoopSettings
from lumina.training.metrics import LossMeter, MetricsFile, bins_due
from lumina.training.stage import StageConfig
from lumina.training.validation import Validation
from lumina.training.workload import Batch, Workload

if TYPE_CHECKING:
    from lumina.training.samples import Samples

logger = logging.getLogger(__name__)

REFUSED = "refused.txt"
"""File in the work directory with a line for every checkpoint that was passed over."""


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass of one optimizer step."""

    step: int
    task: int
    slots: Sequence[Slot]
    last: bool
    """Whether the step ends with it."""


class Trainer:
    """One worker of one training stage."""

    def __init__(
        self,
        workload: Workload,
        settings: LoopSettings,
        init: Path | None = None,
        samples: Callable[[int, int], Samples] | None = None,
    ) -> None:
        """Set up the engine and continue from the newest whole checkpoint in `settings.work`, if there is one.

        `workload` is what is trained. `init` is the directory of a saved transformer that the stage starts from; None
        draws weights by the stage's seed. The checkpoint may be of another number of workers. `samples(rank, world)`
        gives what is made of the averaged weights on the way; None makes nothing.
        Raises ValueError if `init` does not fit the config.
        """
        _ensure_process_group()
        if settings.deterministic:
            give_the_same_bits()
        self.workload = workload
        self.config = config = workload.config
        self.settings = settings
        self.init = init
        self.device = torch.device(settings.device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.objective = workload.objective
        self.tasks = workload.tasks
        model = workload.model(init, settings.activation_checkpointing)
        self.engine = Engine(config, model, fused=self.device.type == "cuda")
        self.ema = Ema([self.engine.weights], config.ema_decay, config.ema_warmup)
        self.meter = LossMeter([data.task.name for data in self.tasks], self.device)
        self.validation = Validation(workload, settings.validation_clips, self.rank, self.world)
        self.samples = samples(self.rank, self.world) if samples else None
        self.clock = StepClock(workload.flops, self.device, _peak(config, settings, self.device))
        self.writer = resume.Writer()
        self.publisher = resume.Writer()
        self.host_copy = resume.HostCopy()
        self._unsettled: Done | None = None
        self.step = self._resume()
        self.interval = CheckpointInterval(settings, sum(value.nbytes for value in self._state().values()))
        self.metrics = MetricsFile(settings.work / METRICS_FILE, self.step) if self.rank == 0 else None

    def run(self) -> None:
        """Train until `config.steps`. Raises TrainingStoppedError when a loss or the gradient is not finite."""
        config = self.config
        passes = self._passes(self.step)
        try:
            with prefetched(
                self._micro_batch, passes, self.settings.prefetch, self.settings.reading_threads
            ) as batches:
                self.clock.restart()
                self.interval.restart(self.step)
                if self.step == 0:
                    self._sample()
                while self.step < config.steps:
                    # 1. One optimizer step over the micro-batches of every task.
                    self._optimizer_step(self.step, batches)
                    self.step += 1
                    # 2. The averaged weights follow.
                    if self.step % config.ema_every == 0:
                        self.ema.update([self.engine.weights], self.step // config.ema_every - 1)
                    # 3. Tell what happened since the last report, and what held-out clips say.
                    self._report()
                    # 4. Make clips: before a checkpoint, which says that those of its step are made.
                    self._sample()
                    # 5. Leave a point to continue from.
                    if self._due(self.settings.milestone_every) or self._checkpoint_due():
                        self._save()
        finally:
            if self.metrics:
                self.metrics.close()
            self.writer.finish()
            self.publisher.finish()

    def export(self, out: Path) -> None:
        """Write the last weights to `out/transformer` and their average to `out/transformer_ema`.

        Milestones go to `out/milestones/step-.../`. Every worker calls it, after `run`.
        Raises ValueError if the training has not come to its end.
        """
        self.writer.finish()
        dist.barrier()
        if self.rank == 0:
            last = [found for found in resume.complete(self._checkpoints) if found.step == self.config.steps]
            if not last:
                raise ValueError(f"{self._checkpoints} has no checkpoint of step {self.config.steps}: train to the end")
            self.workload.publish(last[0], self.init, out)
            self._publish_milestones()
            for path in sorted(self._milestones.glob("step-*")):
                there = out / "milestones" / path.name
                if there.exists():
                    # A worker group that failed after its export has been here.
                    shutil.rmtree(there)
                there.parent.mkdir(exist_ok=True)
                shutil.move(path, there)
        dist.barrier()

    def _passes(self, start: int) -> Iterator[_Pass]:
        """This worker's passes of all steps from `start`. Every worker has as many, of the same tasks in the same
        order: they reduce gradients together."""
        for step in range(start, self.config.steps):
            of_step = [
                (task, slots)
                for task, data in enumerate(self.tasks)
                if data.task.takes_part(step)
                for slots in data.plan.micro_batches(step, self.rank, self.world)
            ]
            for number, (task, slots) in enumerate(of_step):
                yield _Pass(step, task, slots, last=number == len(of_step) - 1)

    def _micro_batch(self, one: _Pass) -> tuple[_Pass, Batch]:
        data = self.tasks[one.task]
        batch: Batch = self.objective.micro_batch(one.step, data.task, data.items(one.slots))
        return one, batch.pinned() if self.device.type == "cuda" else batch

    def _optimizer_step(self, step: int, batches: Iterator[tuple[_Pass, Batch]]) -> None:
        engine = self.engine
        engine.set_learning_rate(self.config.learning_rate(step))
        seen: list[tuple[str, tuple[str, ...], Tensor]] = []
        last = False
        while not last:
            with self.clock.waiting():
                one, batch = next(batches)
            task, last = self.tasks[one.task].task, one.last
            self.clock.add(batch)
            batch = batch.on(self.device)
            items = self.objective.losses(engine, batch, self.dtype, self.device)
            # The engine averages gradients over workers; so the sum below is the mean over the task's global batch.
            engine.backward(items.total.sum() * (self.world / task.batch_size), last=last)
            self.meter.add(one.task, items, batch.t)
            seen.append((task.name, batch.clip_ids, items.total.detach()))
        self.clock.add_step()
        self.meter.add_step(engine.grad_norm())
        done = Done(step, seen, engine.grad_norm())
        # The device has this step before it while the host hears of the last.
        self._settle()
        self._unsettled = done

    def _settle(self) -> None:
        """Stop on what was not finite in the step that nobody has looked at yet."""
        done, self._unsettled = self._unsettled, None
        if done is not None:
            done.check(self.rank)

    def _report(self) -> None:
        if self._due(self.settings.log_every, self.settings.validate_every):
            # What comes below waits for the device anyway.
            self._settle()
        values: dict[str, float] = {}
        if self._due(self.settings.log_every):
            values.update(self.meter.report())
            if bins_due(self.step, self.config.steps, self.settings.log_every):
                values.update(self.meter.report_bins())
            values["lr"] = self.config.learning_rate(self.step - 1)
            values.update(self.clock.report())
        if self._due(self.settings.validate_every):
            with self.clock.paused():
                values.update(self.validation.run(self.engine.module, self.dtype, self.device))
        if values and self.metrics:
            self.metrics.write(self.step, values)

    def _sample(self) -> None:
        """Let the averaged weights make clips, without a trace in the training."""
        if self.samples is None or not self.samples.due(self.step, self.config.steps):
            return
        # Those of a run that was killed may lie there: of this worker, or of all.
        wanted = torch.tensor(float(self.samples.wanted(self.step)), device=self.device)
        if self.world > 1:
            dist.all_reduce(wanted, op=dist.ReduceOp.MAX)
        if not wanted:
            return
        self._settle()
        [average] = self.ema.shards
        calm = _undisturbed(self.device, self.config.compile)
        with self.clock.paused(), calm, self.engine.holding(average) as model:
            self.samples.make(self.step, model, self.device)

    def _due(self, *periods: int | None) -> bool:
        """Whether one of the periods ends with this step, or the training does."""
        return self.step == self.config.steps or any(period and self.step % period == 0 for period in periods)

    @property
    def _checkpoints(self) -> Path:
        return self.settings.work / "engine"

    @property
    def _milestones(self) -> Path:
        return self.settings.work / "milestones"

    def _publish_milestones(self) -> None:
        """Make weights of the milestones on the way that all workers have written."""
        every = self.settings.milestone_every
        for found in reversed(resume.complete(self._checkpoints)):
            path = self._milestones / found.path.name
            if every and found.step % every == 0 and found.step < self.config.steps and not path.exists():
                with write_whole(path) as part:
                    self.workload.publish(found, self.init, part)

    def _checkpoint_due(self) -> bool:
        """Whether the workers save now. It depends on clocks, and no number of the training depends on it."""
        if self.step < self.interval.next_look:
            return False
        left = self.interval.steps_left(self.step)
        if self.world > 1:
            # The slowest decides.
            most = torch.tensor(left, device=self.device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            left = int(most)
        self.interval.look_again(self.step, left)
        return left == 0

    def _state(self) -> dict[str, Tensor]:
        """This worker's share of what a checkpoint holds: live tensors."""
        [ema] = self.ema.shards
        meter = {f"meter.{name}": value for name, value in self.meter.state().items()}
        return {**self.engine.state(), "ema": ema, **meter}

    def _save(self) -> None:
        """Copy this worker's share, and let it be written while training goes on."""
        self._settle()
        # What is still being written lies where the copy goes: host memory holds the state once.
        self.writer.finish()
        if self.rank == 0 and self.settings.milestone_every and not self.publisher.busy:
            # Those of before: of the one that comes now, some worker may still be writing.
            self.publisher.submit(self._publish_milestones)
        share, copied = self.host_copy.take(self._state())
        step, layout = self.step, self.engine.layout

        def write() -> None:
            copied()
            resume.write_share(self._checkpoints, step, self.rank, self.world, share, layout)
            if self.rank == 0:
                resume.prune(self._checkpoints, self.settings.keep_checkpoints, self.settings.milestone_every)

        self.interval.saved(step, self.writer.submit(write))

    def _resume(self) -> int:
        """Load the newest whole checkpoint; return the optimizer steps it has behind it."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        found = self._newest()
        step = found.step if found else 0
        if self.rank == 0:
            resume.remove_after(self._checkpoints, step)
            resume.remove_after(self._milestones, step)
            for path in self._milestones.glob(".step-*"):
                # Being published when the run was killed.
                shutil.rmtree(path)
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


@contextmanager
def _undisturbed(device: torch.device, compiled: bool) -> Iterator[None]:
    """Keep torch's global random numbers as they are, and compiled blocks from learning other shapes."""
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), eager:
        yield


def refuse(work: Path, message: str) -> None:
    """Say that a checkpoint was passed over, also to whoever follows `work`."""
    logger.warning(message)
    with (work / REFUSED).open("a", encoding="utf-8") as file:
        file.write(message + "\n")


def _peak(config: StageConfig, settings: LoopSettings, device: torch.device) -> float | None:
    """Operations a second that the worker's device can do, where that is known."""
    if settings.peak_tflops is not None:
        return settings.peak_tflops * 1e12
    if device.type != "cuda" or config.precision != "bf16":
        return None
    gpu = gpu_of_device(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.peak_flops


def _ensure_process_group() -> None:
    """Make this process a world of its own, unless a launcher has set up a larger one."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
