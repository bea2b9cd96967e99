"""What `lumina cost --cluster` tells: every training stage on a cluster, and settings with which all of them fit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType

from lumina.cluster_cost import Memory, Mend, Retention, StageCost, stage_cost
from lumina.hardware import Cluster
from pipelines.config import PipelineConfig, stage_name
from pipelines.reports.cost import table, task_loads, unit
from pipelines.terminal import Text


@dataclass(frozen=True)
class ClusterReport:
    """The training of a config on a cluster; `as_dict` gives the JSON."""

    cluster: Cluster
    utilisation: float
    """Share of the peak that all operations run at."""
    stages: tuple[StageCost, ...]
    overrides: tuple[str, ...]
    """`key=value` settings with which all stages fit that can; empty where all do."""
    slow: tuple[str, ...]
    """Stages that compute in float32, whose hours are too few: the peak is that of bfloat16."""

    @property
    def gpu_hours(self) -> float:
        """Of all stages."""
        return sum(stage.gpu_hours for stage in self.stages)


def on_cluster(config: PipelineConfig, cluster: Cluster, utilisation: float, text_tokens: int) -> ClusterReport:
    """Count every training stage with one worker a GPU, as `config.runtime` runs it.

    Raises ValueError if a task has fewer samples than there are GPUs.
    """
    runtime = config.runtime
    retention = Retention(runtime.keep_checkpoints, runtime.milestone_every)
    stages = tuple(
        stage_cost(
            stage_name(key),
            training,
            task_loads(config, training, text_tokens),
            cluster,
            utilisation,
            runtime.checkpointing(stage_name(key)),
            retention,
        )
        for key, training in config.training().items()
    )
    slow = tuple(stage_name(key) for key, training in config.training().items() if training.precision == "fp32")
    return ClusterReport(cluster, utilisation, stages, _overrides(config, stages), slow)


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
        | {"fits": stage.fits, "memory": _memory(stage.memory)}
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
        "gpu_hours": report.gpu_hours,
        "stages": stages,
        "overrides": list(report.overrides),
    }


def _memory(memory: Memory) -> Mapping[str, int]:
    return asdict(memory) | {"total": memory.total}


def cluster_view(report: ClusterReport) -> RenderableType:
    """The report as tables, and what does not fit."""
    cluster, gpu = report.cluster, report.cluster.gpu
    head = Text(
        f"{cluster.name}: {unit(gpu.peak_flops, 'FLOP/s')} in bfloat16, {report.utilisation:.0%} of it reached; "
        f"{unit(gpu.memory_bytes, 'B')}, {unit(cluster.usable_bytes, 'B')} of it usable\n"
        "Every clip is taken to be as large as the largest, so all figures are upper bounds.\n"
    )
    parts: list[RenderableType] = [head, _work(report), _memories(report), _disk(report)]
    if report.slow:
        parts.append(
            Text(f"{', '.join(report.slow)}: float32 is slower than the peak, which is bfloat16's: expect more hours.")
        )
    parts += [Text(_misfit(stage, stage.mend, cluster), "red") for stage in report.stages if stage.mend]
    if report.overrides:
        options = " \\\n    ".join(f"-o {shlex.quote(override)}" for override in report.overrides)
        parts.append(Text(f"Add these settings:\n    {options}", "bold"))
    elif all(stage.fits for stage in report.stages):
        parts.append(Text("All stages fit.", "green"))
    return Group(*parts)


def _work(report: ClusterReport) -> RenderableType:
    work = table(
        "Work", "stage", "steps", "tokens/step", "operations/step", "time/step", "read/step", "GPU-hours", "days"
    )
    count = report.cluster.count
    for stage in report.stages:
        work.add_row(
            stage.stage,
            f"{stage.steps:,}",
            unit(stage.tokens, ""),
            unit(stage.flops, "FLOP"),
            _duration(stage.step_seconds),
            unit(stage.read_bytes, "B"),
            f"{stage.gpu_hours:,.0f}",
            f"{stage.gpu_hours / count / 24:,.1f}",
        )
    work.add_section()
    steps = sum(stage.steps for stage in report.stages)
    hours = report.gpu_hours
    work.add_row("all", f"{steps:,}", "", "", "", "", f"{hours:,.0f}", f"{hours / count / 24:,.1f}", style="bold")
    return work


def _memories(report: ClusterReport) -> RenderableType:
    columns = ("weights", "gradients", "state", "activations", "largest pass (tokens)", "in all")
    made = table("Memory of one GPU", "stage", "repeats", *columns)
    for stage in report.stages:
        memory = stage.memory
        made.add_row(
            stage.stage,
            stage.checkpointing,
            unit(memory.weights, "B"),
            unit(memory.gradients + memory.buffer, "B"),
            unit(memory.state, "B"),
            unit(memory.activations, "B"),
            f"{stage.largest_task} ({stage.largest_pass.tokens:,})",
            Text(unit(memory.total, "B"), "" if stage.fits else "bold red"),
        )
    return made


def _disk(report: ClusterReport) -> RenderableType:
    # Stages are mostly alike in this: all of one network.
    alike: dict[tuple[int, int, int, int], list[str]] = {}
    for stage in report.stages:
        key = (stage.trained, stage.checkpoint_bytes, stage.weights_bytes, stage.disk_bytes)
        alike.setdefault(key, []).append(stage.stage)
    disk = table("Disk", "stages", "trained", "a checkpoint", "final weights", "most at once")
    for (trained, *sizes), names in alike.items():
        disk.add_row(", ".join(names), unit(trained, ""), *(unit(size, "B") for size in sizes))
    return disk


def _misfit(stage: StageCost, mend: Mend, cluster: Cluster) -> str:
    largest = stage.largest_pass
    text = (
        f"{stage.stage} needs {unit(stage.memory.total, 'B')} per GPU of {unit(cluster.gpu.memory_bytes, 'B')}: "
        f"{stage.largest_task} has {largest.tokens:,} tokens in one pass. "
    )
    taken = unit(mend.memory.total, "B")
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


def _duration(seconds: float) -> str:
    return f"{seconds:,.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
