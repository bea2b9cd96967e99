"""Cost report of a video-to-audio config: operations and memory of its model, of a sound, and of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType

from lumina.formats import quantity, size
from lumina.hardware import Cluster
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.cost import forward_cost, parameters, training_cost
from lumina.video_to_audio.lengths import Lengths, lengths
from pipelines.sound_config import SoundPipelineConfig
from pipelines.terminal import Text, record_table

_STATE_BYTES = 20
"""Of a trained number: float32 weight, gradient, two moments, average."""


@dataclass(frozen=True)
class StageRow:
    """One training stage, if every clip fills the window."""

    stage: str
    steps: int
    samples: int
    """Of a step."""
    step_flops: int
    flops: int
    gpu_hours: float | None
    """On the GPUs of `--cluster`."""


@dataclass(frozen=True)
class SoundCostReport:
    """What a config costs."""

    parameters: int
    weight_bytes: Mapping[str, int]
    training_state_bytes: int
    duration_s: float
    """Of the clip that is counted: the window of `encode_sound`."""
    tokens: int
    forward_flops: int
    """One evaluation of the network."""
    sampling_flops: int
    """One sound, by `export.sampler`."""
    stages: tuple[StageRow, ...]


def of_sound_pipeline(config: SoundPipelineConfig, cluster: Cluster | None, utilisation: float) -> SoundCostReport:
    """Reckon a config; GPU-hours where a cluster is given, at a share of its peak."""
    model, duration = config.model, config.encode_sound.window_s
    long = lengths(duration)
    media = long.visual_frames, model.text_tokens, long.sync_tokens
    count, forward = parameters(model), forward_cost(model, long.latents, *media)
    sampler = config.export.sampler
    guided = any(weight > 0 for _, weight in sampler.guidance)
    step = training_cost(model, long.latents, *media)
    stages = []
    for name, one in config.train.items():
        flops = one.steps * one.batch_size * step
        hours = None if cluster is None else flops / (cluster.gpu.peak_flops * utilisation * 3600)
        stages.append(StageRow(f"train@{name}", one.steps, one.batch_size, one.batch_size * step, flops, hours))
    return SoundCostReport(
        parameters=count,
        weight_bytes={"bf16": 2 * count, "fp32": 4 * count},
        training_state_bytes=_STATE_BYTES * count,
        duration_s=duration,
        tokens=_tokens(model, long),
        forward_flops=forward,
        sampling_flops=sampler.steps * forward * (2 if guided else 1),
        stages=tuple(stages),
    )


def _tokens(model: VideoToAudioConfig, long: Lengths) -> int:
    return (long.latents // model.patch[0]) * (model.latent_rows // model.patch[1])


def sound_cost_view(cost: SoundCostReport) -> RenderableType:
    """The report as text and a table."""
    head = Text(
        f"{cost.parameters:,} parameters: {size(cost.weight_bytes['bf16'])} in bf16; "
        f"{size(cost.training_state_bytes)} to train (weights, gradients, moments, average)\n"
        f"{cost.duration_s:g} s of sound: {cost.tokens:,} tokens; one evaluation "
        f"{quantity(cost.forward_flops, 'FLOP')}, one sound {quantity(cost.sampling_flops, 'FLOP')}"
    )
    columns: dict[str, Callable[[StageRow], str]] = {
        "stage": lambda one: one.stage,
        ">steps": lambda one: f"{one.steps:,}",
        ">samples": lambda one: f"{one.samples:,}",
        ">operations/step": lambda one: quantity(one.step_flops, "FLOP"),
        ">operations": lambda one: quantity(one.flops, "FLOP"),
    }
    if any(one.gpu_hours is not None for one in cost.stages):
        columns[">GPU-hours"] = lambda one: "" if one.gpu_hours is None else f"{one.gpu_hours:,.1f}"
    return Group(head, record_table("Training", cost.stages, columns))
