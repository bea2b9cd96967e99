"""The DAG: raw clips to a fine-tuned text-to-video checkpoint (paper sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.manifest_mistakes import ManifestError
from curation.manifests import Manifest
from curation.selection import SelectConfig
from curation.sources import SYSTEM_PROMPTS_FILE, SourceError, check_sources
from jobs import choose, evaluate, evaluate_vbench, export, study, train
from jobs.shapes import RenderShapesConfig
from lumina.training.sample_config import SamplePlan
from lumina.vbench.suite_config import VBenchSuite
from pipelines.checks import check_names, check_scores_given, check_select, check_store, check_weights, starting_weights
from pipelines.config import Branch, PipelineConfig, TrainConfig
from pipelines.engine.stage import Pipeline, RegisteredModel, Stage
from pipelines.errors import PipelineError
from pipelines.layout import check_layout, layout_of, trainable
from pipelines.sampling import sample_plans
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
from pipelines.vbench_suite import with_suite

_TRAIN_FROM = "lumina run CONFIG \\\n    -o weights.transformer={checkpoint}"
_BASE = RegisteredModel("base", "Trained on all sources.", _TRAIN_FROM)
_BEST_SUBSET = RegisteredModel("best-subset", "Fine-tuned on the best subset of sources.", _TRAIN_FROM)
_GENERATE = 'lumina generate --checkpoint {checkpoint} \\\n    --prompt "..." --out clip.mp4'
_FINAL = RegisteredModel("final", "The fine-tuned model with all that it needs to generate clips.", _GENERATE)


def build(config: PipelineConfig) -> Pipeline:
    """Declare every stage of a run.

    Raises:
        PipelineError: the manifest or the weights cannot be used, or a source cannot be tagged or evaluated.
    """
    try:
        data = raw(config)
        sources = sources_of(data)
        check_sources(sources, config.tag)
    except (ManifestError, SourceError) as error:
        raise PipelineError(str(error)) from error
    check_names(config, sources)
    check_select(config, sources)
    layout = layout_of(data)
    check_layout(config, layout)
    check_scores_given(config, sources, layout)
    check_store(config)
    check_weights(config)
    start = starting_weights(config)
    samples = sample_plans(config, sources)
    stages = [*_curation(config, data), *_training(config, start, samples)]
    for branch in config.branches():
        # The prompt of a source that cannot be chosen is not worth the clips.
        plan = samples.get(f"{branch.prefix}finetune")
        stages += _subset(config, branch, trainable(layout, branch.finetune), plan)
    stages += _studies(config)
    return Pipeline("text_to_video", tuple(stages))


def _select(config: PipelineConfig) -> SelectConfig:
    """The policy with the latents sets, where a set has rules: only then does another set change who is selected."""
    if not config.select.sets:
        return config.select
    return config.select.model_copy(update={"encoded": {name: one.media for name, one in config.latents.items()}})


def _curation(config: PipelineConfig, data: RenderShapesConfig | Manifest) -> list[Stage]:
    device, alike = config.runtime.curation_device, duplicates_found(config)
    return [
        *read_clips(config, data),
        curate(config, "curation.motion_scores:MOTION_OPERATOR", config.motion),
        executed(curate(config, "curation.sources:TAG_OPERATOR", config.tag), system_prompts=SYSTEM_PROMPTS_FILE),
        *score_clips(config),
        *find_duplicates(config),
        select_clips(config, _select(config), ("motion", "tag", *alike)),
        show_curation(config, config.curation_page, ("motion", "tag", *alike)),
        curate(config, "curation.prompts:ENCODE_TEXT_OPERATOR", config.encode_text.on(device)),
        *(
            curate(
                config,
                "curation.latents:ENCODE_LATENTS_OPERATOR",
                latents.on(device).model_copy(update={"name": name}),
                f"encode_latents@{name}",
            )
            for name, latents in config.latents.items()
        ),
    ]


def _training(config: PipelineConfig, start: Path | None, samples: Mapping[str, SamplePlan]) -> list[Stage]:
    stages: list[Stage] = []
    followed = {branch.after: branch for branch in config.branches()}
    for name, section in config.train.items():
        before = {"init": stages[-1].name} if stages else {}
        stage = _train(config, f"train@{name}", section, before, samples.get(f"train.{name}"))
        stage = stage if stages or start is None else replace(stage, weights={"init": str(start)})
        stages.append(_registered(stage, _BASE, followed[name]) if name in followed else stage)
    return stages


def _registered(stage: Stage, model: RegisteredModel, branch: Branch) -> Stage:
    return executed(stage, model=replace(model, alias=model.alias + branch.variant.replace("@", "-")))


def _train(
    config: PipelineConfig, name: str, section: TrainConfig, inputs: Mapping[str, str], samples: SamplePlan | None
) -> Stage:
    latents = {f"latents@{latents}": f"encode_latents@{latents}" for latents in section.latents}
    stage = job(config, name, train.run, section.trained, {**latents, "text": "encode_text", **inputs})
    return executed(stage, aside=samples)


def _subset(
    config: PipelineConfig, branch: Branch, sources: tuple[str, ...], samples: SamplePlan | None
) -> list[Stage]:
    """Evaluate the system prompt of each source, choose, fine-tune on what was chosen, and export."""
    trained, variant = f"train@{branch.after}", branch.variant
    chosen, finetuned = f"choose{variant}", f"finetune{variant}"
    on_device, suite = branch.evaluate.on(config.runtime.device), branch.evaluate.suite
    judge: Any = evaluate
    if isinstance(suite, VBenchSuite):
        # Where its files and networks lie is no part of the stage: they are known by content.
        on_device, judge = on_device.model_copy(update={"suite": suite.identity()}), evaluate_vbench
    settings = on_device.model_dump()
    # Real clips have no known truth: prompts are then captions of the run's own clips.
    captions = {"select": "select"} if suite.kind == "captions" else {}
    media = branch.finetune.selected_media
    scored = {f"evaluate@{source}": branch.evaluation(source) for source in sources}
    # A source whose clips were all set aside has a system prompt, but nothing to fine-tune on.
    trained_on = {
        f"{media}@{latents}": f"encode_latents@{latents}"
        for latents in branch.finetune.latents
        if media in config.latents[latents].media
    }
    # Where files of scores lie is no part of the rule: they are known by content.
    rule = branch.choose.model_copy(update={"scores": None})
    tuned = _train(config, finetuned, branch.finetune, {"init": trained, "selection": chosen}, samples)
    exported = {"checkpoint": finetuned, "tag": "tag", "selection": chosen}
    compared = {"before": trained, "after": finetuned, "selection": chosen, "tag": "tag", **captions}
    evaluations = [
        job(
            config,
            branch.evaluation(source),
            judge.run,
            evaluate.EvaluateConfig(**settings, source=source),
            {"checkpoint": trained, "tag": "tag", **captions},
        )
        for source in sources
    ]
    evaluations.append(
        job(config, f"evaluate_final{variant}", judge.run_final, evaluate.EvaluateFinalConfig(**settings), compared)
    )
    if isinstance(suite, VBenchSuite):
        evaluations = with_suite(evaluations, suite, f"{branch.prefix}evaluate.suite")
    return [
        *evaluations[:-1],
        replace(
            job(config, chosen, choose.run, rule, {**scored, **trained_on}),
            files=branch.choose.score_files(),
        ),
        _registered(tuned, _BEST_SUBSET, branch),
        evaluations[-1],
        _registered(job(config, f"export{variant}", export.run, branch.export, exported), _FINAL, branch),
    ]


def _studies(config: PipelineConfig) -> list[Stage]:
    """Studies of the model that was fine-tuned last, under the system prompt that was chosen."""
    return [
        job(
            config,
            f"study@{name}",
            study.run,
            settings,
            {
                "checkpoint": "finetune",
                "tag": "tag",
                "selection": "choose",
                **({"select": "select"} if settings.suite.kind == "captions" else {}),
            },
        )
        for name, settings in config.studies().items()
    ]
