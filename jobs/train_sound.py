"""Stages `train@N` of a video-to-audio model: as `jobs.train`, whose workers train on sounds and features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jobs import train
from jobs.context import Job, JobContext, JobResult
from lumina.video_to_audio.training.stage import SoundStageConfig

_TABLES = ("sounds", "visual", "sync", "captions")


@partial(Job, depends=("torch", "deepspeed"), tier="metric")
def run(ctx: JobContext) -> JobResult:
    """Train one stage (config: SoundStageConfig) and write its weights, their average and its metrics.

    Inputs: `sounds`, `visual`, `sync` and `captions`, what the encoders wrote, and optionally `init` (a stage to start
    from; a transformer's directory in `ctx.weights` does it, too). Errors, and all else, as of `jobs.train.run`.
    """
    from lumina.video_to_audio.checkpoints import load_weights

    spec = _spec(ctx)
    clips = _check(ctx.config, spec, ctx.runtime.train_workers)
    return train.launch(ctx, ctx.config, spec, clips, load_weights)


def _spec(ctx: JobContext) -> dict[str, Any]:
    """Return what a worker needs, as plain values."""
    if not set(_TABLES) <= set(ctx.inputs):
        raise ValueError(f"{ctx.stage} needs inputs {', '.join(_TABLES)}, but has {', '.join(sorted(ctx.inputs))}")
    return train.common_spec(ctx, _open) | {
        # A pipeline's config may say more than a stage needs.
        "config": ctx.config.model_dump_json(include=set(SoundStageConfig.model_fields)),
        **{name: str(ctx.inputs[name].path) for name in _TABLES},
    }


def _check(config: SoundStageConfig, spec: Mapping[str, Any], workers: int) -> Counter[str]:
    """Find out before any worker starts whether the stage can run; return the number of clips of each source."""
    from lumina.video_to_audio import checkpoints

    train.check_init(spec, config.model, checkpoints.load_config)
    workload = _open(spec)
    workload.tasks[0].plan.micro_batches(0, 0, workers)
    if spec["init"] is None:
        # Whether the features of the empty text fit.
        workload.model(None, "none")
    found: Counter[str] = workload.dataset.counts("source")
    return found


def _open(spec: Mapping[str, Any]) -> Any:
    from lumina.video_to_audio.training.dataset import SoundDataset
    from lumina.video_to_audio.training.workload import SoundWorkload

    config = SoundStageConfig.model_validate_json(spec["config"])
    sounds, visual, sync, captions = (Path(spec[name]) for name in _TABLES)
    dataset = SoundDataset(sounds, visual, sync, captions, config.clips)
    return SoundWorkload(config, dataset, Path(spec["init"]) if spec["init"] else None)
