"""Cost report: operations and memory of a config's model, or of a released one, per scale, schedule and task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from curation.latents import EncodeLatentsConfig
from lumina.cluster_cost import NUMBER_BYTES, TaskLoad
from lumina.cost import (
    LatentSize,
    activation_bytes,
    evaluation_bytes,
    forward_cost,
    key_bytes,
    muon_flops,
    parameters,
    sampling_cost,
    text_cost,
    training_cost,
)
from lumina.flow_matching.schedules import PRESETS, SamplerConfig
from lumina.formats import quantity, size
from lumina.models.config import NextDiTConfig, PatchSize
from lumina.sizes import SPATIAL_COMPRESSION, check_size, generated_latents, largest_clip, latent_frames
from lumina.training.stage import TaskConfig
from pipelines.config import PipelineConfig, TrainConfig, stage_name
from pipelines.terminal import Text, record_table

STORED_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number of latents and text features, by the type in which they are stored."""


@dataclass(frozen=True)
class Clip:
    """The clip that is counted."""

    width: int
    height: int
    num_frames: int

    @property
    def latent(self) -> LatentSize:
        """Frames, rows and columns of its latent."""
        rows, columns = self.height // SPATIAL_COMPRESSION, self.width // SPATIAL_COMPRESSION
        return (generated_latents(self.num_frames), rows, columns)


@dataclass(frozen=True)
class ScaleRow:
    """One evaluation of the clip at one scale."""

    scale: str
    tokens: int
    forward_flops: int
    relative: float
    """In units of the finest scale's."""
    attention_share: float
    key_bytes: int
    """Keys and values of one block, and of the text in all blocks; bf16."""
    activation_bytes: int
    """Live at once in an evaluation; bf16."""


@dataclass(frozen=True)
class ScheduleRow:
    """One clip, sampled."""

    name: str
    evaluations: Mapping[str, int]
    """Per scale; guided steps take two."""
    flops: int
    relative: float
    """In units of the same schedule at the finest scale alone."""


@dataclass(frozen=True)
class TaskRow:
    """One task of one training stage, clips of the largest bucket."""

    stage: str
    task: str
    tokens: int
    """Of one sample."""
    samples: int
    """Of one optimizer step, over all workers."""
    ratio: float
    """Share of the steps that the task takes part in."""
    step_flops: int
    """Of such a step: forward, backward and what activation checkpointing computes again."""
    activation_bytes: int
    """Of one sample at the fullest moment of its backward pass, in the stage's precision."""


@dataclass(frozen=True)
class UpdateRow:
    """What the optimizer of one training stage adds to a step."""

    stage: str
    optimizer: str
    flops: int
    """Over all workers."""


@dataclass(frozen=True)
class CostReport:
    """All figures."""

    model: Mapping[str, Any]
    parameters: int
    weight_bytes: Mapping[str, int]
    training_state_bytes: int
    """Weights, gradients, two moments and the average, float32, over all workers."""
    clip: Clip
    text_tokens: int
    text_flops: int
    """Keys and values of one text in all blocks."""
    scales: tuple[ScaleRow, ...]
    schedules: tuple[ScheduleRow, ...]
    tasks: tuple[TaskRow, ...]
    updates: tuple[UpdateRow, ...]
    """Of the stages whose optimizer multiplies matrices."""


def report(
    model: NextDiTConfig,
    clip: Clip,
    schedules: Mapping[str, SamplerConfig],
    text_tokens: int,
    tasks: tuple[TaskRow, ...] = (),
    updates: tuple[UpdateRow, ...] = (),
) -> CostReport:
    """Count everything for one clip. ValueError if its size does not fit the model's scales, naming sizes that do."""
    check_size(clip.width, clip.height, SPATIAL_COMPRESSION * max(patch[1] for patch in model.patch_sizes))
    count = parameters(model)
    costs = [forward_cost(model, clip.latent, patch, text_tokens) for patch in model.patch_sizes]
    return CostReport(
        model=model.model_dump(mode="json"),
        parameters=count,
        weight_bytes={name: size * count for name, size in NUMBER_BYTES.items()},
        training_state_bytes=5 * 4 * count,
        clip=clip,
        text_tokens=text_tokens,
        text_flops=text_cost(model, text_tokens),
        scales=tuple(
            ScaleRow(
                scale=_name(patch),
                tokens=cost.tokens,
                forward_flops=cost.flops,
                relative=cost.flops / costs[0].flops,
                attention_share=cost.attention / cost.flops,
                key_bytes=key_bytes(model, cost.tokens, text_tokens, NUMBER_BYTES["bf16"]),
                activation_bytes=evaluation_bytes(model, cost.tokens, NUMBER_BYTES["bf16"]),
            )
            for patch, cost in zip(model.patch_sizes, costs, strict=True)
        ),
        schedules=tuple(_schedule(model, clip, name, sampler, text_tokens) for name, sampler in schedules.items()),
        tasks=tasks,
        updates=updates,
    )


def of_released(model: NextDiTConfig, clip: Clip, text_tokens: int) -> CostReport:
    """The costs of a released model with the released schedules."""
    return report(model, clip, PRESETS, text_tokens)


def of_pipeline(config: PipelineConfig, clip: Clip, text_tokens: int) -> CostReport:
    """The costs of a config: of a clip by its exported sampler, and of its training tasks."""
    tasks = tuple(
        row
        for key, training in config.training().items()
        for row in _tasks(config, stage_name(key), training, text_tokens)
    )
    updates = tuple(
        UpdateRow(stage_name(key), training.optimizer, muon_flops(config.model, training.lora))
        for key, training in config.training().items()
        if training.optimizer == "muon"
    )
    return report(config.model, clip, {"export": config.export.sampler}, text_tokens, tasks, updates)


def _schedule(model: NextDiTConfig, clip: Clip, name: str, sampler: SamplerConfig, text_tokens: int) -> ScheduleRow:
    finest = sampler.model_copy(update={"patches": ((0.0, model.patch_sizes[0]),)})
    cost, alone = (sampling_cost(model, clip.latent, one, text_tokens, text_tokens) for one in (sampler, finest))
    evaluations = {_name(patch): count for patch, count in cost.evaluations.items()}
    return ScheduleRow(name, evaluations, cost.flops, cost.flops / alone.flops)


def _tasks(config: PipelineConfig, stage: str, training: TrainConfig, text_tokens: int) -> list[TaskRow]:
    model, mode = config.model, config.runtime.checkpointing(stage)
    rows = []
    for load in task_loads(config, training, text_tokens):
        tokens = forward_cost(model, load.size, load.task.patch, text_tokens).tokens
        one = training_cost(model, load.size, load.task.patch, text_tokens, mode, training.lora)
        rows.append(
            TaskRow(
                stage=stage,
                task=load.task.name,
                tokens=tokens,
                samples=load.task.batch_size,
                ratio=load.task.ratio,
                step_flops=load.task.batch_size * one,
                activation_bytes=activation_bytes(model, tokens, text_tokens, NUMBER_BYTES[training.precision], mode),
            )
        )
    return rows


def task_loads(config: PipelineConfig, training: TrainConfig, text_tokens: int) -> list[TaskLoad]:
    """What the tasks of a stage load a worker with: the largest clips that their latents may hold."""
    loads = []
    for task in training.tasks:
        encodings = [config.latents[name] for name in training.latents if task.media in config.latents[name].media]
        encoding = max(encodings, key=lambda one: math.prod(_largest(one, task)))
        _, rows, columns = size = _largest(encoding, task)
        stored = 1 if task.media == "image" else latent_frames(largest_clip(encoding.num_frames))
        numbers = stored * rows * columns * config.model.in_channels
        encode_text = config.encode_text.on(config.runtime.curation_device)
        text = text_tokens * config.model.cap_feat_dim * STORED_BYTES[encode_text.dtype]
        fixed = task.media == "image" or task.latent_frames is not None
        lengths = (
            {1}
            if fixed
            else {n // task.patch[0] for n in range(encoding.min_frames // 4, encoding.num_frames // 4 + 1)}
        )
        loads.append(
            TaskLoad(
                task=task,
                size=size,
                text_tokens=text_tokens,
                read_bytes=numbers * STORED_BYTES[encoding.dtype] + text,
                shapes=len({size for one in encodings for size in one.sizes}) * len(lengths),
            )
        )
    return loads


def _largest(encoding: EncodeLatentsConfig, task: TaskConfig) -> LatentSize:
    """The largest latent of an encoding, as a task trains on it: without a video's first frame, in whole patches."""
    width, height = max(encoding.sizes, key=lambda one: (one[0] * one[1], -abs(one[0] - one[1])))
    frames = 1
    if task.media == "video":
        frames = task.latent_frames or latent_frames(largest_clip(encoding.num_frames)) - 1
        frames -= frames % task.patch[0]
    return (frames, height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION)


def _name(patch: PatchSize) -> str:
    return f"{patch[0]}x{patch[1]}"


def cost_view(cost: CostReport, *, sampling: bool = True) -> RenderableType:
    """The report as tables, those of evaluations and schedules only if `sampling` is asked for."""
    clip, state = cost.clip, cost.training_state_bytes
    head = Text(
        f"{cost.parameters:,} parameters: {size(cost.weight_bytes['bf16'])} in bf16; "
        f"{size(state)} to train (weights, gradients, moments, average)\n"
        f"{clip.num_frames} frames of {clip.width}x{clip.height}: latent {clip.latent[0]}x{clip.latent[1]}x"
        f"{clip.latent[2]}; {cost.text_tokens} text tokens"
    )
    scales: dict[str, Callable[[ScaleRow], str]] = {
        "scale": lambda one: one.scale,
        ">tokens": lambda one: f"{one.tokens:,}",
        ">operations": lambda one: quantity(one.forward_flops, "FLOP"),
        ">relative": lambda one: f"{one.relative:.2f}",
        ">attention": lambda one: f"{one.attention_share:.0%}",
        ">keys": lambda one: size(one.key_bytes),
        ">activations": lambda one: size(one.activation_bytes),
    }
    schedules: dict[str, Callable[[ScheduleRow], str]] = {
        "schedule": lambda one: one.name,
        "evaluations": lambda one: ", ".join(f"{count} at {name}" for name, count in one.evaluations.items()),
        ">operations": lambda one: quantity(one.flops, "FLOP"),
        ">relative": lambda one: f"{one.relative:.2f}",
    }
    tasks: dict[str, Callable[[TaskRow], str]] = {
        "stage": lambda one: one.stage,
        "task": lambda one: one.task,
        ">tokens": lambda one: f"{one.tokens:,}",
        ">samples": lambda one: f"{one.samples:,}" + (f" in {one.ratio:.0%} of steps" if one.ratio != 1 else ""),
        ">operations/step": lambda one: quantity(one.step_flops, "FLOP"),
        ">activations/sample": lambda one: size(one.activation_bytes),
    }
    updates: dict[str, Callable[[UpdateRow], str]] = {
        "stage": lambda one: one.stage,
        "optimizer": lambda one: one.optimizer,
        ">operations/step": lambda one: quantity(one.flops, "FLOP"),
    }
    parts: list[RenderableType] = [head]
    if sampling:
        parts += [
            record_table("One evaluation", cost.scales, scales),
            record_table("One clip", cost.schedules, schedules),
        ]
    parts += [record_table("Training", cost.tasks, tasks)] if cost.tasks else []
    parts += [record_table("Updates of the weights, beside that", cost.updates, updates)] if cost.updates else []
    return Group(*parts)
