"""What `lumina cost` tells: the costs of a config's model, or of a released one, per scale, schedule and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lumina.cost import (
    LatentSize,
    activation_bytes,
    forward_cost,
    key_bytes,
    parameters,
    sampling_cost,
    text_cost,
    training_cost,
)
from lumina.flow_matching.schedules import PRESETS, SamplerConfig
from lumina.models.config import NextDiTConfig, PatchSize
from lumina.sizes import CELL, SPATIAL_COMPRESSION, check_size, crop_sizes, generated_latents, largest_clip, num_cells
from pipelines.config import PipelineConfig, TrainConfig

BYTES = {"bf16": 2, "fp32": 4}


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
    """One task of one training stage, clips of the largest square bucket."""

    stage: str
    task: str
    tokens: int
    """Of one sample."""
    samples: int
    """Of one optimizer step, over all workers."""
    step_flops: int
    """Forward and backward of one optimizer step."""
    activation_bytes: int
    """Kept for the backward pass of one sample, in the stage's precision."""


@dataclass(frozen=True)
class CostReport:
    """All figures; `asdict` gives the JSON."""

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


def report(
    model: NextDiTConfig,
    clip: Clip,
    schedules: Mapping[str, SamplerConfig],
    text_tokens: int,
    tasks: tuple[TaskRow, ...] = (),
) -> CostReport:
    """Count everything for one clip. ValueError if its size does not fit the model's scales, naming sizes that do."""
    check_size(clip.width, clip.height, SPATIAL_COMPRESSION * max(patch[1] for patch in model.patch_sizes))
    count = parameters(model)
    costs = [forward_cost(model, clip.latent, patch, text_tokens) for patch in model.patch_sizes]
    return CostReport(
        model=model.model_dump(mode="json"),
        parameters=count,
        weight_bytes={name: size * count for name, size in BYTES.items()},
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
                key_bytes=key_bytes(model, cost.tokens, text_tokens, BYTES["bf16"]),
                activation_bytes=activation_bytes(model, cost.tokens, BYTES["bf16"], training=False),
            )
            for patch, cost in zip(model.patch_sizes, costs, strict=True)
        ),
        schedules=tuple(_schedule(model, clip, name, sampler, text_tokens) for name, sampler in schedules.items()),
        tasks=tasks,
    )


def of_released(model: NextDiTConfig, clip: Clip, text_tokens: int) -> CostReport:
    """The costs of a released model with the released schedules."""
    return report(model, clip, PRESETS, text_tokens)


def of_pipeline(config: PipelineConfig, clip: Clip, text_tokens: int) -> CostReport:
    """The costs of a config: of a clip by its exported sampler, and of its training tasks."""
    tasks = tuple(
        row for stage, training in config.training().items() for row in _tasks(config, stage, training, text_tokens)
    )
    return report(config.model, clip, {"export": config.export.sampler}, text_tokens, tasks)


def _schedule(model: NextDiTConfig, clip: Clip, name: str, sampler: SamplerConfig, text_tokens: int) -> ScheduleRow:
    finest = sampler.model_copy(update={"patches": ((0.0, model.patch_sizes[0]),)})
    cost, alone = (sampling_cost(model, clip.latent, one, text_tokens, text_tokens) for one in (sampler, finest))
    evaluations = {_name(patch): count for patch, count in cost.evaluations.items()}
    return ScheduleRow(name, evaluations, cost.flops, cost.flops / alone.flops)


def _tasks(config: PipelineConfig, stage: str, training: TrainConfig, text_tokens: int) -> list[TaskRow]:
    rows = []
    for task in training.tasks:
        encodings = [config.latents[name] for name in training.latents if task.media in config.latents[name].media]
        if not encodings:
            continue
        encoding = max(encodings, key=lambda one: one.resolution)
        side = min(crop_sizes(num_cells(encoding.resolution), CELL, 1.0))
        frames = 1 if task.media == "image" else (task.latent_frames or (largest_clip(encoding.num_frames) - 1) // 4)
        frames = frames if frames == 1 else frames - frames % task.patch[0]
        size = (frames, side[1] // SPATIAL_COMPRESSION, side[0] // SPATIAL_COMPRESSION)
        tokens = forward_cost(config.model, size, task.patch, text_tokens).tokens
        rows.append(
            TaskRow(
                stage=stage,
                task=task.name,
                tokens=tokens,
                samples=task.batch_size,
                step_flops=task.batch_size * training_cost(config.model, size, task.patch, text_tokens),
                activation_bytes=activation_bytes(config.model, tokens, BYTES[training.precision], training=True),
            )
        )
    return rows


def _name(patch: PatchSize) -> str:
    return f"{patch[0]}x{patch[1]}"


def as_dict(cost: CostReport) -> dict[str, Any]:
    """Plain data for `--json`."""
    return asdict(cost)


def cost_view(cost: CostReport) -> RenderableType:
    """The report as tables."""
    clip, state = cost.clip, cost.training_state_bytes
    head = Text(
        f"{cost.parameters:,} parameters: {_unit(cost.weight_bytes['bf16'], 'B')} in bf16; "
        f"{_unit(state, 'B')} to train (float32 weights, gradients, moments, average)\n"
        f"{clip.num_frames} frames of {clip.width}x{clip.height}: latent {clip.latent[0]}x{clip.latent[1]}x"
        f"{clip.latent[2]}; {cost.text_tokens} text tokens"
    )
    scales = _table("One evaluation", "scale", "tokens", "operations", "relative", "attention", "keys", "activations")
    for scale in cost.scales:
        scales.add_row(
            scale.scale,
            f"{scale.tokens:,}",
            _unit(scale.forward_flops, "FLOP"),
            f"{scale.relative:.2f}",
            f"{scale.attention_share:.0%}",
            _unit(scale.key_bytes, "B"),
            _unit(scale.activation_bytes, "B"),
        )
    schedules = _table("One clip", "schedule", "evaluations", "operations", "relative")
    for schedule in cost.schedules:
        counts = ", ".join(f"{count} at {name}" for name, count in schedule.evaluations.items())
        schedules.add_row(schedule.name, counts, _unit(schedule.flops, "FLOP"), f"{schedule.relative:.2f}")
    parts: list[RenderableType] = [head, scales, schedules]
    if cost.tasks:
        tasks = _table("Training", "stage", "task", "tokens", "samples", "operations/step", "activations/sample")
        for task in cost.tasks:
            tasks.add_row(
                task.stage,
                task.task,
                f"{task.tokens:,}",
                str(task.samples),
                _unit(task.step_flops, "FLOP"),
                _unit(task.activation_bytes, "B"),
            )
        parts.append(tasks)
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or column in ("task", "evaluations") else "right")
    return table


def _unit(count: int, unit: str) -> str:
    """Three digits and a decimal prefix."""
    value, prefix = float(count), ""
    for larger in ("K", "M", "G", "T", "P", "E"):
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}{unit}"
