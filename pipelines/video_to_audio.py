"""The DAG of Lumina-V2A: clips with sound to a network that gives silent clips theirs (paper appendix D)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from curation.manifest_mistakes import ManifestError
from curation.selection import SelectConfig
from jobs import evaluate_sound, export_sound, train_sound
from pipelines.checks import check_sound_select, check_sound_weights, check_store, starting_weights
from pipelines.engine.stage import Pipeline, RegisteredModel, Stage
from pipelines.errors import PipelineError
from pipelines.sound_config import ALL, SoundPipelineConfig
from pipelines.stages import (
    curate,
    duplicates_found,
    executed,
    find_duplicates,
    job,
    raw,
    read_clips,
    score_clips,
    select_clips,
    show_curation,
    sources_of,
)

_MEASURED = ("score@sound", "score@av_align")
_FEATURES = {"sounds": "encode_sound", "visual": "encode_visual", "sync": "encode_sync", "captions": "encode_captions"}
"""Inputs of training and evaluation, and the stages that they are."""
_SOUND = "lumina sound clip.mp4 --checkpoint {checkpoint} \\\n    --out sounding.mp4"
_FINAL = RegisteredModel("final", "The model with all that it needs to give clips a sound.", _SOUND)


def build(config: SoundPipelineConfig) -> Pipeline:
    """Declare every stage of a run.

    Raises:
        PipelineError: the manifest or the weights cannot be used, or a rule names what there is not.
    """
    try:
        data = raw(config)
    except ManifestError as error:
        raise PipelineError(str(error)) from error
    check_sound_select(config, sources_of(data))
    check_store(config)
    check_sound_weights(config)
    start = starting_weights(config)
    device, alike = config.runtime.curation_device, duplicates_found(config)
    curation = [
        *read_clips(config, data),
        curate(config, "curation.sound:SOUND_OPERATOR", config.sound, "score@sound"),
        curate(config, "curation.av_align:AV_ALIGN_OPERATOR", config.av_align, "score@av_align"),
        *score_clips(config),
        *find_duplicates(config),
        select_clips(config, _select(config), (*_MEASURED, *alike)),
        show_curation(config, config.curation_page, (*_MEASURED, *alike)),
        curate(config, "curation.caption_features:ENCODE_CAPTIONS_OPERATOR", config.encode_captions.on(device)),
        curate(config, "curation.sound_latents:ENCODE_SOUND_OPERATOR", config.encode_sound.on(device)),
        curate(config, "curation.visual_features:ENCODE_VISUAL_OPERATOR", config.encode_visual.on(device)),
        curate(config, "curation.sync_features:ENCODE_SYNC_OPERATOR", config.encode_sync.on(device)),
    ]
    return Pipeline("video_to_audio", (*curation, *_training(config, start), *_judged(config)))


def _select(config: SoundPipelineConfig) -> SelectConfig:
    """The policy with its sets, of which one takes all clips: what is in no other set is trained on, too."""
    if not config.select.sets:
        return config.select
    names = (ALL, *config.select.sets)
    return config.select.model_copy(update={"encoded": dict.fromkeys(names, ("video",))})


def _training(config: SoundPipelineConfig, start: Path | None) -> list[Stage]:
    stages: list[Stage] = []
    for name, section in config.train.items():
        before = {"init": stages[-1].name} if stages else {}
        stage = job(config, f"train@{name}", train_sound.run, section, {**_FEATURES, **before})
        stages.append(stage if stages or start is None else replace(stage, weights={"init": str(start)}))
    return stages


def _judged(config: SoundPipelineConfig) -> list[Stage]:
    """Evaluate the checkpoint of every training stage, compare the last with the first, and export it."""
    settings = config.evaluate.on(config.runtime.device)
    names = list(config.train)
    stages = [
        job(
            config,
            f"evaluate@{name}",
            evaluate_sound.run,
            settings,
            {**_FEATURES, "clips": "probe", "checkpoint": f"train@{name}"},
        )
        for name in names
    ]
    if len(names) > 1:
        sides = {"before": f"evaluate@{names[0]}", "after": f"evaluate@{names[-1]}"}
        stages.append(job(config, "compare", evaluate_sound.compare, config.compare, sides))
    exported = job(config, "export", export_sound.run, config.export, {"checkpoint": f"train@{names[-1]}"})
    return [*stages, executed(exported, model=_FINAL)]
