"""Cluster cost report: every training stage on a cluster, and settings with which all of them fit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType

from curation.latents import EncodeLatentsConfig
from lumina.cluster_cost import Memory, Mend, StageCost, stage_cost
from lumina.evaluation_cost import EvaluationCost, Generation, evaluation_cost
from lumina.formats import duration, quantity, size
from lumina.hardware import Cluster
from lumina.sizes import largest_clip
from lumina.step_time import LATE, LINKS, Links
from lumina.vae_cost import vae_bytes, vae_flops
from pipelines.config import PipelineConfig, stage_name
from pipelines.reports.cost import number_table, task_loads
from pipelines.terminal import Text

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
    cost: EvaluationCost


@dataclass(frozen=True)
class ClusterReport:
    """The training of a config on a cluster; `as_dict` gives the JSON."""

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

    @property
    def gpu_hours(self) -> float:
        """Of all stages."""
        return sum(stage.gpu_hours for stage in self.stages)


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
    return ClusterReport(cluster, utilisation, links, stages, encodings, evaluation, _overrides(config, stages), slow)


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
    prompts = len(one.suite.choose) if one.suite.kind == "list" else one.suite.count
    return Evaluation(prompts * one.samples, cost.flops / rate, cost.decode_flops / rate, cost)


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


def as_dict(report: ClusterReport) -> dict[str, Any]:
    """Plain data for `--json`."""
    gpu = report.cluster.gpu
    stages = [
        asdict(stage)
        | {"fits": stage.fits, "memory": _memory(stage.memory), "step_seconds": stage.step_seconds}
        | {"mend": asdict(stage.mend) | {"memory": _memory(stage.mend.memory)} if stage.mend else None}
        for stage in report.stages
    ]
    return {
        "name": report.cluster.name,
        "gpus": report.cluster.count,
        "peak_flops": gpu.peak_flops,
        "memory_bytes": gpu.memory_bytes,
        "usable_bytes": report.cluster.usable_bytes,
        "utilisation": report.utilisation,
        "links": asdict(report.links),
        "encodings": [asdict(one) for one in report.encodings],
        "evaluation": _evaluation_json(report.evaluation),
        "warnings": _warnings(report),
        "gpu_hours": report.gpu_hours,
        "stages": stages,
        "overrides": list(report.overrides),
    }


def _evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    cost = evaluation.cost
    evaluations = {"x".join(map(str, patch)): count for patch, count in cost.sampling.evaluations.items()}
    counted = asdict(cost) | {"sampling": {"evaluations": evaluations, "flops": cost.sampling.flops}}
    return asdict(evaluation) | {"cost": counted | {"flops": cost.flops, "memory": cost.memory}}


def _memory(memory: Memory) -> Mapping[str, int]:
    return asdict(memory) | {"total": memory.total}


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
    parts: list[RenderableType] = [head, _work(report), _times(report), _memories(report), _disk(report)]
    parts.append(_generation(report))
    if report.slow:
        parts.append(
            Text(f"{', '.join(report.slow)}: float32 is slower than the peak, which is bfloat16's: expect more hours.")
        )
    parts += [Text(warning, "yellow") for warning in _warnings(report)]
    parts += [Text(_misfit(stage, stage.mend, cluster), "red") for stage in report.stages if stage.mend]
    if report.overrides:
        options = " \\\n    ".join(f"-o {shlex.quote(override)}" for override in report.overrides)
        parts.append(Text(f"Add these settings:\n    {options}", "bold"))
    elif all(stage.fits for stage in report.stages):
        parts.append(Text("All stages fit.", "green"))
    return Group(*parts)


def _work(report: ClusterReport) -> RenderableType:
    work = number_table("Work", "stage", "steps", "tokens/step", "operations/step", "time/step", "GPU-hours", "days")
    count = report.cluster.count
    for stage in report.stages:
        work.add_row(
            stage.stage,
            f"{stage.steps:,}",
            quantity(stage.tokens),
            quantity(stage.flops, "FLOP"),
            duration(stage.step_seconds),
            f"{stage.gpu_hours:,.0f}",
            f"{stage.gpu_hours / count / 24:,.1f}",
        )
    work.add_section()
    steps = sum(stage.steps for stage in report.stages)
    hours = report.gpu_hours
    work.add_row("all", f"{steps:,}", "", "", "", f"{hours:,.0f}", f"{hours / count / 24:,.1f}", style="bold")
    return work


def _times(report: ClusterReport) -> RenderableType:
    columns = ("computes", "exchanges", "reads", "at", "a checkpoint", "every", "share")
    made = number_table("Time of a step, and checkpoints", "stage", *columns)
    for stage in report.stages:
        spent = stage.waiting
        made.add_row(
            stage.stage,
            duration(spent.compute_s),
            duration(spent.exchange_s),
            size(stage.read_bytes),
            Text(quantity(spent.read_rate, "B/s"), "yellow" if spent.waits_for_storage else ""),
            duration(spent.checkpoint_s),
            duration(spent.checkpoint_every_s),
            Text(f"{spent.checkpoint_share:.1%}", "yellow" if _is_late(stage) else ""),
        )
    return made


def _is_late(stage: StageCost) -> bool:
    # Going by time it is exactly the share that is allowed.
    return stage.waiting.checkpoint_share > LATE * 1.001


def _generation(report: ClusterReport) -> RenderableType:
    made = number_table("The VAE and evaluation, on one GPU", "what", "clips", "time/clip", "live", "with weights")
    for one in report.encodings:
        made.add_row(f"encode_latents@{one.name}", "", duration(one.seconds), size(one.memory))
    found = report.evaluation
    live = max(found.cost.sampling_bytes, found.cost.decode_bytes)
    made.add_row(
        "evaluate, a system prompt",
        f"{found.clips:,}",
        duration(found.seconds),
        size(live),
        Text(size(found.cost.memory), "" if _evaluation_fits(report) else "bold red"),
    )
    return made


def _evaluation_fits(report: ClusterReport) -> bool:
    return report.evaluation.cost.memory <= report.cluster.usable_bytes


def _warnings(report: ClusterReport) -> list[str]:
    """What will cost more than the tables say."""
    found = []
    for stage in report.stages:
        spent = stage.waiting
        if spent.waits_for_storage:
            found.append(
                f"{stage.stage} reads {size(stage.read_bytes)} in every step of {duration(spent.step_s)}: slower than "
                f"{quantity(spent.read_rate, 'B/s')}, the storage is what it waits for, {duration(spent.read_s)} a "
                "step at --storage. Take larger batches, smaller text features (encode_text.dtype=bfloat16), or "
                "local disks."
            )
        if _is_late(stage):
            found.append(
                f"{stage.stage} writes a checkpoint of {size(stage.checkpoint_bytes)}, "
                f"{duration(spent.checkpoint_s)}, every {duration(spent.checkpoint_every_s)}: "
                f"{spent.checkpoint_share:.0%} of its time. Raise runtime.checkpoint_every, or leave it out."
            )
        if spent.checkpoint_every_s > _LONG_S:
            found.append(
                f"{stage.stage} writes a checkpoint every {duration(spent.checkpoint_every_s)}, which is what a lost "
                "node costs at most: lower runtime.checkpoint_every, or leave it out."
            )
        if spent.exposed_s > spent.compute_s:
            found.append(
                f"{stage.stage} waits longer for gradients and weights of other workers than it computes: take larger "
                "batches, fewer GPUs, or communication_data_type: bf16."
            )
    cost = report.evaluation.cost
    if not _evaluation_fits(report):
        most = "decoding" if cost.decode_bytes > cost.sampling_bytes else "sampling"
        found.append(
            f"evaluate needs {size(cost.memory)} of {size(report.cluster.gpu.memory_bytes)}, most of it for "
            f"{most}: evaluate.batch_size=1, evaluate.dtype=bfloat16 and evaluate.tiling=true take the least."
        )
    return found


def _memories(report: ClusterReport) -> RenderableType:
    columns = ("weights", "gradients", "state", "activations", "largest pass (tokens)", "in all")
    made = number_table("Memory of one GPU", "stage", "repeats", *columns)
    for stage in report.stages:
        memory = stage.memory
        made.add_row(
            stage.stage,
            stage.checkpointing,
            size(memory.weights),
            size(memory.gradients + memory.buffer),
            size(memory.state),
            size(memory.activations + memory.caches),
            f"{stage.largest_task} ({stage.largest_pass.tokens:,})",
            Text(size(memory.total), "" if stage.fits else "bold red"),
        )
    return made


def _disk(report: ClusterReport) -> RenderableType:
    # Stages are mostly alike in this: all of one network.
    alike: dict[tuple[int, int, int, int], list[str]] = {}
    for stage in report.stages:
        key = (stage.trained, stage.checkpoint_bytes, stage.weights_bytes, stage.disk_bytes)
        alike.setdefault(key, []).append(stage.stage)
    disk = number_table("Disk", "stages", "trained", "a checkpoint", "final weights", "most at once")
    for (trained, *sizes), names in alike.items():
        disk.add_row(", ".join(names), quantity(trained), *map(size, sizes))
    return disk


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
