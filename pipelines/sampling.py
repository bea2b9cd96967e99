"""Samples of training stages at plan time: whose prompts, how large, at which scales, and whether that can be."""

from __future__ import annotations

from collections.abc import Mapping

from curation.sources import check_sources
from jobs.evaluate import EvaluationConfig
from lumina.flow_matching.schedules import PatchSchedule, SamplerConfig
from lumina.sizes import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from lumina.training.sample_config import SamplePlan
from lumina.training.stage import TaskConfig
from pipelines.config import Branch, PipelineConfig, TrainConfig
from pipelines.engine.fingerprint import locate_weights
from pipelines.errors import PipelineError


def sample_plans(config: PipelineConfig, sources: tuple[str, ...]) -> dict[str, SamplePlan]:
    """What the training stages make on the way, by their keys in the config: `train.2`, `finetune`.

    Args:
        config: of the run.
        sources: all that there are.

    Raises:
        PipelineError: a source is unknown, or a scale untrained or too coarse for the clips.
    """
    found = {}
    for key, section in config.training().items():
        if section.sample is not None:
            found[key] = _plan(config, key, section, sources)
    return found


def _plan(config: PipelineConfig, key: str, section: TrainConfig, sources: tuple[str, ...]) -> SamplePlan:
    sample = section.sample
    if sample is None:
        raise AssertionError(f"{key} has no samples")
    where = f"{key}.sample"
    if unknown := sorted(set(sample.sources or ()) - set(sources)):
        raise PipelineError(f"{where}.sources names {', '.join(unknown)}; the sources are {', '.join(sources)}")
    clip, sampler, num_frames, tasks = sampled_clip(config, key, section)
    latent = (max(1, num_frames // TEMPORAL_COMPRESSION), clip.height // SPATIAL_COMPRESSION)
    patches = sampler.patches
    _check_patches(where, patches, {task.patch for task in tasks}, (*latent, clip.width // SPATIAL_COMPRESSION))
    wanted = sorted(sample.sources or sources)
    prompts = check_sources(wanted, config.tag)
    weights = config.weights.resolve()
    return SamplePlan(
        every=sample.every,
        prompts=sample.plan_prompts(),
        seeds=sample.seeds,
        sampler=sampler,
        system_prompts={prompt.source: prompt.text for prompt in prompts},
        num_frames=num_frames,
        height=clip.height,
        width=clip.width,
        fps=clip.fps,
        batch_size=sample.batch_size,
        **{name: str(locate_weights(weights[name], f"weights.{name}").path) for name in ("vae", "text_encoder")},
    )


def sampled_clip(
    config: PipelineConfig, key: str, section: TrainConfig
) -> tuple[EvaluationConfig, SamplerConfig, int, list[TaskConfig]]:
    """What the samples of a stage are like: the evaluation that they go by, their sampler, frames, and all tasks that
    were trained by then."""
    branch, before = _before(config, key)
    tasks = [task for stage in (*before, section) for task in stage.tasks]
    clip = branch.evaluate
    num_frames = clip.num_frames if any(task.media == "video" for task in tasks) else 1
    sampler = (section.sample.sampler if section.sample else None) or clip.sampler
    patches = sampler.patches_of(max(1, num_frames // TEMPORAL_COMPRESSION))
    return clip, sampler.model_copy(update={"patches": patches}), num_frames, tasks


def _check_patches(
    where: str, patches: PatchSchedule, trained: set[tuple[int, int, int]], size: tuple[int, ...]
) -> None:
    for _, patch in patches:
        if patch not in trained:
            raise PipelineError(
                f"{where}.sampler.patches uses {patch}, which is not trained yet then; trained are "
                f"{', '.join(map(str, sorted(trained)))}: give the samples a sampler with those"
            )
        if any(length % part for length, part in zip(size, patch, strict=True)):
            raise PipelineError(
                f"{where}.sampler.patches uses {patch}, which does not divide latents of (frames, rows, columns) {size}"
            )


def _before(config: PipelineConfig, key: str) -> tuple[Branch, list[TrainConfig]]:
    """The evaluation by which a stage's clips are made, and the stages that it builds upon."""
    names = list(config.train)
    branches: Mapping[str, Branch] = {branch.after: branch for branch in config.branches()}
    for branch in branches.values():
        if key == f"{branch.prefix}finetune":
            return branch, [config.train[name] for name in names[: names.index(branch.after) + 1]]
    at = names.index(key.removeprefix("train."))
    # The next model that is judged.
    after = next(name for name in names[at:] if name in branches)
    return branches[after], [config.train[name] for name in names[:at]]
