"""Cost report of a video-to-audio config: operations and memory of its model, of a sound, and of its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType

from lumina.cluster_cost import NUMBER_BYTES, STATE_BYTES, Memory, memory_of, pass_samples
from lumina.formats import duration, quantity, size
from lumina.hardware import Cluster
from lumina.step_time import LINKS, Links, exchange, waiting
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.cost import activation_bytes, forward_cost, muon_flops, parameters, training_cost
from lumina.video_to_audio.lengths import Lengths, lengths
from pipelines.reports.cost import STORED_BYTES
from pipelines.sound_config import SoundPipelineConfig
from pipelines.terminal import Text, record_table

_STATE_BYTES = 20
"""Of a trained number: float32 weight, gradient, two moments, average."""


@dataclass(frozen=True)
class OnCluster:
    """A stage on the GPUs of `--cluster`, one worker each."""

    step_s: float
    """From step to step: arithmetic, and exchange that is not beside it."""
    read_rate: float
    """Bytes a second that the storage has to deliver, so that no step waits."""
    waits_for_storage: bool
    """Whether it has to deliver more than it can."""
    gpu_hours: float
    days: float
    pass_samples: int
    """Of the largest forward pass of one worker."""
    memory: Memory
    """Of one GPU."""
    memory_bytes: int
    """All of it."""
    fits: bool


@dataclass(frozen=True)
class StageRow:
    """One training stage, if every clip fills the window."""

    stage: str
    steps: int
    samples: int
    """Of a step."""
    step_flops: int
    """With Muon's products and what full recomputation computes again; that of other kinds is left out."""
    flops: int
    cluster: OnCluster | None
    """Where one is given."""


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


def of_sound_pipeline(
    config: SoundPipelineConfig, cluster: Cluster | None, utilisation: float, links: Links = LINKS
) -> SoundCostReport:
    """Reckon a config; time and memory where a cluster is given, at a share of its peak."""
    model, window = config.model, config.encode_sound.window_s
    long = lengths(window)
    media = long.visual_frames, model.text_tokens, long.sync_tokens
    count, forward = parameters(model), forward_cost(model, long.latents, *media)
    sampler = config.export.sampler
    guided = any(weight > 0 for _, weight in sampler.guidance)
    stages = []
    for name, one in config.train.items():
        again = forward if config.runtime.checkpointing(f"train@{name}") == "full" else 0
        step = one.batch_size * (training_cost(model, long.latents, *media) + again)
        step += muon_flops(model) if one.optimizer == "muon" else 0
        planned = None if cluster is None else _on_cluster(config, name, count, step, cluster, utilisation, links)
        stages.append(StageRow(f"train@{name}", one.steps, one.batch_size, step, one.steps * step, planned))
    return SoundCostReport(
        parameters=count,
        weight_bytes={"bf16": 2 * count, "fp32": 4 * count},
        training_state_bytes=_STATE_BYTES * count,
        duration_s=window,
        tokens=_tokens(model, long),
        forward_flops=forward,
        sampling_flops=sampler.steps * forward * (2 if guided else 1),
        stages=tuple(stages),
    )


def _on_cluster(
    config: SoundPipelineConfig, name: str, count: int, step: int, cluster: Cluster, utilisation: float, links: Links
) -> OnCluster:
    stage, model, workers = config.train[name], config.model, cluster.count
    long, number = lengths(config.encode_sound.window_s), NUMBER_BYTES[stage.precision]
    most, passes = math.ceil(stage.batch_size / workers), stage.batch_size // workers
    samples = pass_samples(stage.batch_size, stage.micro_batch_size, workers)
    if stage.micro_batch_tokens is not None:
        fitting = max(stage.micro_batch_tokens // _tokens(model, long), math.ceil(most / passes))
        samples = min(samples, fitting)
    mode = config.runtime.checkpointing(f"train@{name}")
    seen_and_said = long.visual_frames + model.text_tokens
    activations = activation_bytes(model, long.latents, seen_and_said, samples, number, mode)
    memory = memory_of(stage, count, count, workers, activations)
    sent = exchange(
        count, workers, NUMBER_BYTES[stage.communication_data_type], number, stage.zero_stage, math.ceil(most / samples)
    )
    read = stage.batch_size * _sample_bytes(config, long)
    compute_s = step / (workers * cluster.gpu.peak_flops * utilisation)
    spent = waiting(compute_s, sent, read, STATE_BYTES * count, workers, links, config.runtime)
    hours = workers * spent.step_s * stage.steps / 3600
    return OnCluster(
        step_s=spent.step_s,
        read_rate=spent.read_rate,
        waits_for_storage=spent.waits_for_storage,
        gpu_hours=hours,
        days=hours / workers / 24,
        pass_samples=samples,
        memory=memory,
        memory_bytes=memory.total,
        fits=memory.total <= cluster.usable_bytes,
    )


def _sample_bytes(config: SoundPipelineConfig, long: Lengths) -> int:
    """What a step reads of one clip: mean and deviation of its latents, and features."""
    model, device = config.model, config.runtime.curation_device
    numbers = (
        (config.encode_sound, 2 * model.in_channels * long.latents * model.latent_rows),
        (config.encode_visual, long.visual_frames * model.visual_dim),
        (config.encode_sync, long.sync_tokens * model.sync_dim),
        (config.encode_captions, model.text_tokens * model.text_dim),
    )
    return sum(count * STORED_BYTES[section.on(device).dtype] for section, count in numbers)


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
    parts: list[RenderableType] = [head, record_table("Training", cost.stages, columns)]
    planned = [(one.stage, one.cluster) for one in cost.stages if one.cluster is not None]
    if planned:
        parts += [record_table("On the cluster", planned, _CLUSTER_COLUMNS), *_advice(planned)]
    return Group(*parts)


_Planned = tuple[str, OnCluster]
_CLUSTER_COLUMNS: Mapping[str, Callable[[_Planned], RenderableType]] = {
    "stage": lambda one: one[0],
    ">time/step": lambda one: duration(one[1].step_s),
    ">reads at": lambda one: Text(quantity(one[1].read_rate, "B/s"), "yellow" if one[1].waits_for_storage else ""),
    ">GPU-hours": lambda one: f"{one[1].gpu_hours:,.1f}",
    ">days": lambda one: f"{one[1].days:,.1f}",
    ">samples/pass": lambda one: f"{one[1].pass_samples:,}",
    ">activations": lambda one: size(one[1].memory.activations),
    ">memory of a GPU": lambda one: Text(size(one[1].memory_bytes), "" if one[1].fits else "bold red"),
}


def _advice(planned: Sequence[_Planned]) -> Iterator[Text]:
    for stage, one in planned:
        if not one.fits:
            yield Text(
                f"{stage} does not fit: lower train.{stage.partition('@')[2]}.micro_batch_size, or set "
                "runtime.activation_checkpointing.",
                "red",
            )
        if one.waits_for_storage:
            yield Text(f"{stage} waits for the storage: take local disks, or larger batches.", "yellow")
