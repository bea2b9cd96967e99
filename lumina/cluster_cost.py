"""Cost of a training stage on a cluster: memory of each GPU, operations, bytes read and written, GPU-hours.

Arithmetic alone, for clips that are all as large as the largest: memory must do for those, and the rest is an upper
bound. Letters: P parameters, Q of them trained (all, or the adapters), W workers, b bytes of a number in the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lumina.cost import (
    CHECKPOINTING,
    LatentSize,
    activation_bytes,
    adapter_parameters,
    cache_bytes,
    forward_cost,
    muon_flops,
    parameters,
    training_cost,
)
from lumina.hardware import Cluster
from lumina.models import rope
from lumina.models.config import Recompute
from lumina.step_time import LINKS, Links, Waiting, exchange, waiting
from lumina.training.loop_config import LoopConfig
from lumina.training.stage import StageConfig, TaskConfig, TrainStageConfig

NUMBER_BYTES = {"bf16": 2, "fp32": 4}
"""Bytes of a number in the network, by precision."""
STATE_BYTES = 16
"""Of one trained parameter, over all workers, and in a checkpoint to continue from: float32 weight, two moments and the
average."""
STEP_BYTES = 8
"""Of one trained parameter, over all workers, in the optimizer's step alone: its gradient as it was summed, and in
float32."""
BUFFER_NUMBERS = 100_000_000
"""Most gradients that the engine gathers before it reduces them."""

_LOOP = LoopConfig()


@dataclass(frozen=True)
class TaskLoad:
    """A task, and what its cost depends on besides."""

    task: TaskConfig
    size: LatentSize
    """Of its largest clip, as the network sees it."""
    text_tokens: int
    """Of one text, system prompt included."""
    read_bytes: int
    """One sample, as it is stored: latents and text features."""
    shapes: int = 1
    """How many shapes its clips have at most."""

    @property
    def unlike(self) -> bool:
        """Whether its clips have several shapes."""
        return self.shapes > 1


@dataclass(frozen=True)
class Pass:
    """The largest forward pass of one worker."""

    samples: int
    tokens: int
    """Of all its samples."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at its fullest."""

    weights: int
    """b P."""
    gradients: int
    """b Q; of ZeRO-2 4 Q / W, summed in float32."""
    state: int
    """16 Q / W: this worker's share of weights, moments and average in float32."""
    buffer: int
    """Of 100 million gradients, or Q where that is less: b each as they are gathered, twice where there are several
    workers or ZeRO-2, since some are reduced while others are computed; and 4 each as float32, in which they are
    summed."""
    activations: int
    """Of the task whose pass takes most."""
    step: int
    """8 Q / W in the optimizer's step, when there are no activations."""
    caches: int = 0
    """Tables of rotations that stay between passes."""

    @property
    def total(self) -> int:
        """All of it."""
        fixed = self.weights + self.gradients + self.state + self.caches
        return fixed + max(self.buffer + self.activations, self.step)


@dataclass(frozen=True)
class Mend:
    """What would make a stage fit that does not."""

    fits: bool
    """Whether it does; otherwise this is all that can be done: full recomputation, one clip at a time."""
    checkpointing: Recompute
    micro_batch_sizes: Mapping[str, int]
    """New ones, by the task's name."""
    memory: Memory


@dataclass(frozen=True)
class StageCost:
    """One stage on one cluster. All numbers of a step are means over steps, and sums over workers."""

    stage: str
    steps: int
    checkpointing: Recompute
    trained: int
    """Parameters that are trained."""
    tokens: int
    """Of a step."""
    flops: int
    """Of a step, with what is computed again, and with Muon's."""
    repeated: float
    """Share of them that is computed again."""
    read_bytes: int
    """Of a step: every task reads its samples anew."""
    waiting: Waiting
    """Where the time of a step goes."""
    gpu_hours: float
    """Of arithmetic and exchange, where the storage keeps up."""
    largest_task: str
    """Whose pass takes the most memory."""
    largest_pass: Pass
    memory: Memory
    mend: Mend | None
    """Where it does not fit; None where it does."""
    checkpoint_bytes: int
    """One checkpoint to continue from: 16 Q."""
    weights_bytes: int
    """The weights that a stage leaves: 8 P, the last ones and their average in float32."""
    disk_bytes: int
    """Most that the stage holds on the disk at once: checkpoints that are kept and one that is being written,
    milestones, and its weights."""

    @property
    def fits(self) -> bool:
        """Whether a GPU's memory holds it."""
        return self.mend is None

    @property
    def step_seconds(self) -> float:
        """From step to step."""
        return self.waiting.step_s


def largest_pass(load: TaskLoad, stage: TrainStageConfig, workers: int, micro_batch_size: int | None = None) -> Pass:
    """The largest share of a step's batch that one worker puts through the network at once.

    `micro_batch_size` takes the place of the task's. Raises ValueError if there are fewer samples than workers.
    """
    task = load.task
    if task.batch_size < workers:
        raise ValueError(
            f"task {task.name}: batch_size {task.batch_size} is smaller than the number of workers, {workers}: raise "
            "batch_size, or take fewer GPUs"
        )
    most = math.ceil(task.batch_size / workers)
    passes = task.batch_size // workers
    samples = pass_samples(task.batch_size, micro_batch_size or task.micro_batch_size, workers)
    of_one = forward_cost(stage.model, load.size, task.patch, load.text_tokens).tokens
    tokens = samples * of_one
    if task.micro_batch_tokens is not None:
        tokens = min(tokens, max(task.micro_batch_tokens, math.ceil(most / passes) * of_one))
    return Pass(samples, tokens)


def pass_samples(batch_size: int, micro_batch_size: int | None, workers: int) -> int:
    """Samples of a worker's largest pass, as the batch plan cuts them: as many passes on every worker, at least one
    sample in each."""
    most = math.ceil(batch_size / workers)
    size = min(most, micro_batch_size or most)
    return math.ceil(most / min(math.ceil(most / size), batch_size // workers))


def _passes(load: TaskLoad, stage: TrainStageConfig, workers: int) -> int:
    """Passes of one step that the task takes part in."""
    return math.ceil(math.ceil(load.task.batch_size / workers) / largest_pass(load, stage, workers).samples)


def pass_bytes(load: TaskLoad, stage: TrainStageConfig, one: Pass, checkpointing: Recompute) -> int:
    """Bytes of activations of a pass; see `lumina.cost.activation_bytes`."""
    return activation_bytes(
        stage.model,
        one.tokens,
        one.samples * load.text_tokens,
        NUMBER_BYTES[stage.precision],
        checkpointing,
        unlike=load.unlike and one.samples > 1,
    )


def trained_parameters(stage: TrainStageConfig, count: int) -> int:
    """Q: the parameters that have gradients and an optimizer's state, of a network that has `count`."""
    return count if stage.lora is None else adapter_parameters(stage.model, stage.lora)


def stage_caches(stage: TrainStageConfig, loads: Sequence[TaskLoad]) -> int:
    """Bytes of the tables that a stage's tasks leave on a GPU; see `lumina.cost.cache_bytes`."""
    sizes = [(one.shapes, forward_cost(stage.model, one.size, one.task.patch, 0).tokens) for one in loads]
    return min(rope.CACHE_BYTES, sum(cache_bytes(stage.model, *size) for size in sizes))


def memory(stage: TrainStageConfig, workers: int, activations: int, caches: int = 0) -> Memory:
    """Bytes of each of `workers` GPUs, given those of activations and tables."""
    count = parameters(stage.model)
    trained = trained_parameters(stage, count)
    held = count if stage.lora is None else count + trained
    return memory_of(stage, held, trained, workers, activations, caches)


def memory_of(stage: StageConfig, held: int, trained: int, workers: int, activations: int, caches: int = 0) -> Memory:
    """As `memory`, of any network: of the numbers that it has, `held`, so many are trained."""
    number = NUMBER_BYTES[stage.precision]
    sharded = stage.zero_stage == 2
    gathered = (2 if workers > 1 or sharded else 1) * number
    widened = 4 if workers > 1 and number == 2 and stage.communication_data_type == "fp32" else 0
    return Memory(
        weights=number * held,
        gradients=math.ceil(4 * trained / workers) if sharded else number * trained,
        state=math.ceil(STATE_BYTES * trained / workers),
        buffer=(gathered + widened) * min(trained, BUFFER_NUMBERS),
        activations=activations,
        step=math.ceil(STEP_BYTES * trained / workers),
        caches=caches,
    )


def find_mend(stage: TrainStageConfig, loads: Sequence[TaskLoad], cluster: Cluster, checkpointing: Recompute) -> Mend:
    """Find what makes the stage fit: the least recomputation from `checkpointing` on, then the largest micro-batches.

    Recomputation is what costs time: where a micro-batch can be cut at all, one clip has thousands of tokens.
    """
    for mode in CHECKPOINTING[CHECKPOINTING.index(checkpointing) :]:
        mend = _with_mode(stage, loads, cluster, mode)
        if mend.fits:
            break
    return mend


def _with_mode(stage: TrainStageConfig, loads: Sequence[TaskLoad], cluster: Cluster, checkpointing: Recompute) -> Mend:
    """Take the largest micro-batches that fit, or single clips."""
    workers = cluster.count
    caches = stage_caches(stage, loads)
    fixed = memory(stage, workers, 0, caches)
    room = cluster.usable_bytes - (fixed.weights + fixed.gradients + fixed.state + fixed.caches + fixed.buffer)
    sizes: dict[str, int] = {}
    most = 0
    for load in loads:
        now = largest_pass(load, stage, workers)
        smaller = (largest_pass(load, stage, workers, size) for size in range(now.samples - 1, 0, -1))
        for one in (now, *smaller):
            taken = pass_bytes(load, stage, one, checkpointing)
            if taken <= room:
                break
        if one != now:
            sizes[load.task.name] = one.samples
        most = max(most, taken)
    found = memory(stage, workers, most, caches)
    return Mend(found.total <= cluster.usable_bytes, checkpointing, sizes, found)


def stage_cost(
    name: str,
    stage: TrainStageConfig,
    loads: Sequence[TaskLoad],
    cluster: Cluster,
    utilisation: float,
    checkpointing: Recompute = "none",
    loop: LoopConfig = _LOOP,
    links: Links = LINKS,
) -> StageCost:
    """Count one stage, with one worker a GPU.

    Args:
        name: of the stage.
        stage: its settings.
        loads: its tasks.
        cluster: which GPUs.
        utilisation: share of the GPUs' peak, 0 to 1, that all operations run at, with those that are computed again,
            and with all waiting.
        checkpointing: what the backward pass computes again.
        loop: which checkpoints are written, and which stay.
        links: how fast workers exchange, and the storage reads and writes.

    Raises ValueError if a task has fewer samples than there are workers.
    """
    workers, model = cluster.count, stage.model
    passes = [largest_pass(load, stage, workers) for load in loads]
    activations = [pass_bytes(load, stage, one, checkpointing) for load, one in zip(loads, passes, strict=True)]
    largest = max(range(len(loads)), key=lambda index: activations[index])
    taken = memory(stage, workers, activations[largest], stage_caches(stage, loads))
    fits = taken.total <= cluster.usable_bytes
    tokens = flops = once = read = 0.0
    for load in loads:
        samples = load.task.ratio * load.task.batch_size
        sized = (model, load.size, load.task.patch, load.text_tokens)
        tokens += samples * forward_cost(*sized).tokens
        flops += samples * training_cost(*sized, checkpointing, stage.lora)
        once += samples * training_cost(*sized, "none", stage.lora)
        read += samples * load.read_bytes
    if stage.optimizer == "muon":
        update = muon_flops(model, stage.lora)
        flops, once = flops + update, once + update
    count = parameters(model)
    trained = trained_parameters(stage, count)
    checkpoint, weights = STATE_BYTES * trained, 2 * 4 * count
    number, times = NUMBER_BYTES[stage.precision], sum(_passes(load, stage, workers) for load in loads)
    spent = waiting(
        flops / (workers * cluster.gpu.peak_flops * utilisation),
        exchange(trained, workers, NUMBER_BYTES[stage.communication_data_type], number, stage.zero_stage, times),
        round(read),
        checkpoint,
        workers,
        links,
        loop,
    )
    milestones = stage.steps // loop.milestone_every if loop.milestone_every else 0
    return StageCost(
        stage=name,
        steps=stage.steps,
        checkpointing=checkpointing,
        trained=trained,
        tokens=round(tokens),
        flops=round(flops),
        repeated=1 - once / flops,
        read_bytes=round(read),
        waiting=spent,
        gpu_hours=workers * spent.step_s * stage.steps / 3600,
        largest_task=loads[largest].task.name,
        largest_pass=passes[largest],
        memory=taken,
        mend=None if fits else find_mend(stage, loads, cluster, checkpointing),
        checkpoint_bytes=checkpoint,
        weights_bytes=weights,
        disk_bytes=(loop.keep_checkpoints + 1 + milestones) * checkpoint + (milestones + 1) * weights,
    )
