"""Cluster cost report: every training stage on a cluster, and settings with which all of them fit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType

from curation.latents import EncodeLatentsConfig
from jobs.evaluate import EvaluationConfig
from lumina.cluster_cost import Mend, StageCost, stage_cost
from lumina.evaluation_cost import Generation, evaluation_cost
from lumina.formats import duration, quantity, size
from lumina.hardware import Cluster
from lumina.sizes import largest_clip
from lumina.step_time import LATE, LINKS, Links
from lumina.vae_cost import vae_bytes, vae_flops
from lumina.vbench.prompts import find_prompts, read_prompts
from lumina.vbench.suite import clips_of, official_clips
from lumina.vbench.suite_config import VBenchSuite, filters_clips
from pipelines.config import PipelineConfig, stage_name
from pipelines.reports.cost import task_loads
from pipelines.reports.sample_cost import sample_warnings
from pipelines.terminal import Text, make_table, record_table

_LONG_S = 3600.0
"""Seconds between two checkpoints that are worth a word."""


@dataclass(frozen=True)
class Encoding:
    """A latents set: its largest clip in the CogVideoX VAE."""

    name: str
    seconds: float
    """Of one GPU, the VAE alone."""
    memory: int
    """Bytes that live at once besides the weights."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one system prompt, which each has."""

    clips: int
    seconds: float
    """Of one GPU, for one clip: its text, its sampling and its decoding."""
    decode_seconds: float
    """Of these, decoding."""
    sampling_bytes: int
    """Live while a batch is sampled."""
    decode_bytes: int
    """Live while a clip is decoded."""
    memory: int
    """Bytes of one GPU at its fullest, weights included."""


@dataclass(frozen=True)
class ClusterReport:
    """The training of a config on a cluster."""

    cluster: Cluster
    utilisation: float
    """Share of the peak that all operations run at."""
    links: Links
    stages: tuple[StageCost, ...]
    encodings: tuple[Encoding, ...]
    evaluation: Evaluation
    overrides: tuple[str, ...]
    """`key=value` settings with which all stages fit that can; empty where all do."""
    slow: tuple[str, ...]
    """Stages that compute in float32, whose hours are too few: the peak is that of bfloat16."""
    samples: tuple[str, ...] = ()
    """What is to be said of clips that do not fit beside a training."""

    @property
    def gpu_hours(self) -> float:
        """Of all stages."""
        return sum(stage.gpu_hours for stage in self.stages)

    @property
    def evaluation_fits(self) -> bool:
        """Whether a GPU's memory holds an evaluation."""
        return self.evaluation.memory <= self.cluster.usable_bytes

    @property
    def warnings(self) -> list[str]:
        """What will cost more than the tables say."""
        found = [*self.samples, *(warning for stage in self.stages for warning in _stage_warnings(stage))]
        if not self.evaluation_fits:
            one = self.evaluation
            most = "decoding" if one.decode_bytes > one.sampling_bytes else "sampling"
            found.append(
                f"evaluate needs {size(one.memory)} of {size(self.cluster.gpu.memory_bytes)}, most of it for "
                f"{most}: evaluate.batch_size=1, evaluate.dtype=bfloat16 and evaluate.tiling=true take the least."
            )
        return found


def on_cluster(
    config: PipelineConfig, cluster: Cluster, utilisation: float, text_tokens: int, links: Links = LINKS
) -> ClusterReport:
    """Count every training stage with one worker a GPU, as `config.runtime` runs it, and what runs the VAE.

    Raises ValueError if a task has fewer samples than there are GPUs.
    """
    runtime = config.runtime
    rate = cluster.gpu.peak_flops * utilisation
    stages = tuple(
        stage_cost(
            stage_name(key),
            training,
            task_loads(config, training, text_tokens),
            cluster,
            utilisation,
            runtime.checkpointing(stage_name(key)),
            runtime,
            links,
        )
        for key, training in config.training().items()
    )
    slow = tuple(stage_name(key) for key, training in config.training().items() if training.precision == "fp32")
    encodings = tuple(_encoding(name, one, rate) for name, one in config.latents.items())
    evaluation = _evaluation(config, rate, text_tokens)
    samples = tuple(sample_warnings(config, stages, cluster, text_tokens))
    mends = _overrides(config, stages)
    return ClusterReport(cluster, utilisation, links, stages, encodings, evaluation, mends, slow, samples)


def _encoding(name: str, encoding: EncodeLatentsConfig, rate: float) -> Encoding:
    width, height = max(encoding.sizes, key=lambda size: size[0] * size[1])
    frames = largest_clip(encoding.num_frames) if "video" in encoding.media else 1
    number = 4 if encoding.compute_dtype == "float32" else 2
    return Encoding(
        name,
        vae_flops("encode", width, height, frames, encoding.tiling) / rate,
        vae_bytes("encode", width, height, frames, number, encoding.tiling),
    )


def _evaluation(config: PipelineConfig, rate: float, text_tokens: int) -> Evaluation:
    one = config.evaluate
    number = 4 if one.dtype == "float32" else 2
    generation = Generation(one.width, one.height, one.num_frames, one.batch_size, number, one.tiling)
    cost = evaluation_cost(config.model, one.sampler, generation, text_tokens)
    seconds, decoding = cost.flops / rate, cost.decode_flops / rate
    return Evaluation(_clips(one), seconds, decoding, cost.sampling_bytes, cost.decode_bytes, cost.memory)


def _clips(one: EvaluationConfig) -> int:
    """Clips of a system prompt."""
    suite = one.suite
    if isinstance(suite, VBenchSuite):
        try:
            prompts = read_prompts(find_prompts(suite.prompts), suite.judged())
        except (OSError, ValueError):
            # To reckon with, the official file need not be there.
            return official_clips(suite.judged(), one.samples, filters_clips(suite))
        return sum(clips_of(prompt, one.samples, filters_clips(suite)) for prompt in prompts)
    return (len(suite.choose) if suite.kind == "list" else suite.count) * one.samples


def _overrides(config: PipelineConfig, stages: tuple[StageCost, ...]) -> tuple[str, ...]:
    mends = {stage.stage: stage.mend for stage in stages if stage.mend and stage.mend.fits}
    modes = {stage.stage: stage.checkpointing for stage in stages}
    changed = {name: mend.checkpointing for name, mend in mends.items() if mend.checkpointing != modes[name]}
    overrides = []
    if changed:
        kept = {name: mode for name, mode in (modes | changed).items() if mode != "none"}
        # A mapping takes the place of the whole setting, so it names the other stages as well.
        text = ", ".join(f"{name}: {mode}" for name, mode in kept.items())
        overrides.append(f"runtime.activation_checkpointing={{{text}}}")
    for key, training in config.training().items():
        mend = mends.get(stage_name(key))
        for index, task in enumerate(training.tasks):
            if mend and task.name in mend.micro_batch_sizes:
                overrides.append(f"{key}.tasks.{index}.micro_batch_size={mend.micro_batch_sizes[task.name]}")
    return tuple(overrides)


def cluster_view(report: ClusterReport) -> RenderableType:
    """The report as tables, and what does not fit."""
    cluster, gpu = report.cluster, report.cluster.gpu
    head = Text(
        f"{cluster.name}: {quantity(gpu.peak_flops, 'FLOP/s')} in bfloat16, {report.utilisation:.0%} of it reached; "
        f"{size(gpu.memory_bytes)}, {size(cluster.usable_bytes)} of it usable\n"
        f"{quantity(report.links.network, 'B/s')} from each GPU to other nodes (--network), "
        f"{quantity(report.links.storage, 'B/s')} from and to the storage in all (--storage).\n"
        "Every clip is taken to be as large as the largest, so all figures are upper bounds.\n"
    )
    parts: list[RenderableType] = [head, *_tables(report)]
    if report.slow:
        parts.append(
            Text(f"{', '.join(report.slow)}: float32 is slower than the peak, which is bfloat16's: expect more hours.")
        )
    parts += [Text(warning, "yellow") for warning in report.warnings]
    parts += [Text(_misfit(stage, stage.mend, cluster), "red") for stage in report.stages if stage.mend]
    if report.overrides:
        options = " \\\n    ".join(f"-o {shlex.quote(override)}" for override in report.overrides)
        parts.append(Text(f"Add these settings:\n    {options}", "bold"))
    elif all(stage.fits for stage in report.stages):
        parts.append(Text("All stages fit.", "green"))
    return Group(*parts)


def _tables(report: ClusterReport) -> Iterator[RenderableType]:
    count, stages = report.cluster.count, report.stages
    work: dict[str, Callable[[StageCost], RenderableType]] = {
        "stage": lambda one: one.stage,
        ">steps": lambda one: f"{one.steps:,}",
        ">tokens/step": lambda one: quantity(one.tokens),
        ">operations/step": lambda one: quantity(one.flops, "FLOP"),
        ">time/step": lambda one: duration(one.step_seconds),
        ">GPU-hours": lambda one: f"{one.gpu_hours:,.0f}",
        ">days": lambda one: f"{one.gpu_hours / count / 24:,.1f}",
    }
    times: dict[str, Callable[[StageCost], RenderableType]] = {
        "stage": lambda one: one.stage,
        ">computes": lambda one: duration(one.waiting.compute_s),
        ">exchanges": lambda one: duration(one.waiting.exchange_s),
        ">reads": lambda one: size(one.read_bytes),
        ">at": lambda one: _marked(quantity(one.waiting.read_rate, "B/s"), one.waiting.waits_for_storage),
        ">a checkpoint": lambda one: duration(one.waiting.checkpoint_s),
        ">every": lambda one: duration(one.waiting.checkpoint_every_s),
        ">share": lambda one: _marked(f"{one.waiting.checkpoint_share:.1%}", _is_late(one)),
    }
    memories: dict[str, Callable[[StageCost], RenderableType]] = {
        "stage": lambda one: one.stage,
        "repeats": lambda one: one.checkpointing,
        ">weights": lambda one: size(one.memory.weights),
        ">gradients": lambda one: size(one.memory.gradients + one.memory.buffer),
        ">state": lambda one: size(one.memory.state),
        ">activations": lambda one: size(one.memory.activations + one.memory.caches),
        "largest pass (tokens)": lambda one: f"{one.largest_task} ({one.largest_pass.tokens:,})",
        ">in all": lambda one: _marked(size(one.memory.total), not one.fits, "bold red"),
    }
    # Stages are mostly alike in what they write: all of one network.
    disks: dict[tuple[int, ...], list[str]] = {}
    for stage in stages:
        key = (stage.trained, stage.checkpoint_bytes, stage.weights_bytes, stage.disk_bytes)
        disks.setdefault(key, []).append(stage.stage)
    disk: dict[str, Callable[[tuple[tuple[int, ...], list[str]]], RenderableType]] = {
        "stages": lambda one: ", ".join(one[1]),
        ">trained": lambda one: quantity(one[0][0]),
        ">a checkpoint": lambda one: size(one[0][1]),
        ">final weights": lambda one: size(one[0][2]),
        ">most at once": lambda one: size(one[0][3]),
    }
    made = record_table("Work", stages, work)
    made.add_section()
    steps, hours = f"{sum(stage.steps for stage in stages):,}", report.gpu_hours
    made.add_row("all", steps, "", "", "", f"{hours:,.0f}", f"{hours / count / 24:,.1f}", style="bold")
    yield made
    yield record_table("Time of a step, and checkpoints", stages, times)
    yield record_table("Memory of one GPU", stages, memories)
    yield record_table("Disk", disks.items(), disk)
    made = make_table(
        "what", ">clips", ">time/clip", ">live", ">with weights", title="The VAE and evaluation, on one GPU"
    )
    for encoding in report.encodings:
        made.add_row(f"encode_latents@{encoding.name}", "", duration(encoding.seconds), size(encoding.memory))
    one = report.evaluation
    memory = _marked(size(one.memory), not report.evaluation_fits, "bold red")
    live = size(max(one.sampling_bytes, one.decode_bytes))
    made.add_row("evaluate, a system prompt", f"{one.clips:,}", duration(one.seconds), live, memory)
    yield made


def _marked(text: str, is_bad: bool, style: str = "yellow") -> Text:
    return Text(text, style if is_bad else "")


def _is_late(stage: StageCost) -> bool:
    # Going by time it is exactly the share that is allowed.
    return stage.waiting.checkpoint_share > LATE * 1.001


def _stage_warnings(stage: StageCost) -> Iterator[str]:
    spent = stage.waiting
    if spent.waits_for_storage:
        yield (
            f"{stage.stage} reads {size(stage.read_bytes)} in every step of {duration(spent.step_s)}: slower than "
            f"{quantity(spent.read_rate, 'B/s')}, the storage is what it waits for, {duration(spent.read_s)} a "
            "step at --storage. Take larger batches, smaller text features (encode_text.dtype=bfloat16), or "
            "local disks."
        )
    if _is_late(stage):
        yield (
            f"{stage.stage} writes a checkpoint of {size(stage.checkpoint_bytes)}, "
            f"{duration(spent.checkpoint_s)}, every {duration(spent.checkpoint_every_s)}: "
            f"{spent.checkpoint_share:.0%} of its time. Raise runtime.checkpoint_every, or leave it out."
        )
    if spent.checkpoint_every_s > _LONG_S:
        yield (
            f"{stage.stage} writes a checkpoint every {duration(spent.checkpoint_every_s)}, which is what a lost "
            "node costs at most: lower runtime.checkpoint_every, or leave it out."
        )
    if spent.exposed_s > spent.compute_s:
        yield (
            f"{stage.stage} waits longer for gradients and weights of other workers than it computes: take larger "
            "batches, fewer GPUs, or communication_data_type: bf16."
        )


def _misfit(stage: StageCost, mend: Mend, cluster: Cluster) -> str:
    largest = stage.largest_pass
    text = (
        f"{stage.stage} needs {size(stage.memory.total)} per GPU of {size(cluster.gpu.memory_bytes)}: "
        f"{stage.largest_task} has {largest.tokens:,} tokens in one pass. "
    )
    taken = size(mend.memory.total)
    if not mend.fits:
        most_are_activations = mend.memory.activations > mend.memory.total / 2
        remedy = "smaller latents" if most_are_activations else "more GPUs, zero_stage 2, or LoRA"
        return (
            f"{text}It cannot fit: even with everything computed again and one clip at a time it takes {taken}. Take "
            f"{remedy}, or GPUs with more memory."
        )
    changes = [] if mend.checkpointing == stage.checkpointing else [f"{mend.checkpointing} activation checkpointing"]
    changes += [f"micro-batches of {size} in {name}" for name, size in mend.micro_batch_sizes.items()]
    return f"{text}With {', '.join(changes)} it takes {taken}."
