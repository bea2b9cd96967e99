"""The DAG: raw clips to a fine-tuned text-to-video checkpoint (paper sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from curation.manifest_mistakes import ManifestError
from curation.manifests import Manifest, external_digest, media_root, read_manifest
from curation.selection import SelectConfig
from curation.shots import ShotsConfig
from curation.sources import SourceError, check_sources
from jobs.evaluate import EvaluateConfig, EvaluateFinalConfig
from jobs.shapes import RenderShapesConfig
from lumina.config import Config
from lumina.files import place_of
from pipelines.checks import check_names, check_scores_given, check_select, check_store, check_weights, starting_weights
from pipelines.config import Branch, PipelineConfig, TrainConfig
from pipelines.engine.stage import Pipeline, RegisteredModel, Stage
from pipelines.engine.tolerance import BITWISE, Metric, Tier, Tolerance
from pipelines.errors import PipelineError
from pipelines.layout import check_layout, layout_of, trainable

_CURATE = "jobs.curate:run"
_TRAIN_FROM = "lumina run CONFIG \\\n    -o weights.transformer={checkpoint}"
_BASE = RegisteredModel("base", "Trained on all sources.", _TRAIN_FROM)
_BEST_SUBSET = RegisteredModel("best-subset", "Fine-tuned on the best subset of sources.", _TRAIN_FROM)
_GENERATE = 'lumina generate --checkpoint {checkpoint} \\\n    --prompt "..." --out clip.mp4'
_FINAL = RegisteredModel("final", "The fine-tuned model with all that it needs to generate clips.", _GENERATE)
_DECODERS = ("av", "opencv-python-headless")


def sources_of(data: RenderShapesConfig | Manifest) -> tuple[str, ...]:
    """The sources in the raw data, sorted: known before anything runs, since each is evaluated on its own."""
    if isinstance(data, Manifest):
        return data.sources
    return tuple(sorted({name for counts in (data.clips, data.images) for name, count in counts.items() if count}))


def _raw(config: PipelineConfig) -> RenderShapesConfig | Manifest:
    """What is rendered, or the manifest: read once, for it may be long."""
    if config.data.shapes is not None:
        return config.data.shapes
    if config.data.manifest is None:
        raise AssertionError("PipelineConfig lets data through that is neither Shapes nor a manifest")
    return read_manifest(config.data.manifest, config.ingest)


def build(config: PipelineConfig) -> Pipeline:
    """Declare every stage of a run.

    Raises:
        PipelineError: the manifest or the weights cannot be used, or a source cannot be tagged or evaluated.
    """
    try:
        data = _raw(config)
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
    stages = [*_curation(config, data), *_training(config, start)]
    for branch in config.branches():
        # The prompt of a source that cannot be chosen is not worth the clips.
        stages += _subset(config, branch, trainable(layout, branch.finetune))
    return Pipeline("text_to_video", tuple(stages))


def _select(config: PipelineConfig) -> SelectConfig:
    """The policy with the latents sets, where a set has rules: only then does another set change who is selected."""
    if not config.select.stages:
        return config.select
    return config.select.model_copy(update={"sets": {name: one.media for name, one in config.latents.items()}})


def _curation(config: PipelineConfig, data: RenderShapesConfig | Manifest) -> list[Stage]:
    weights = config.weights.resolve()
    raw = [_render(config.data.shapes)] if config.data.shapes else []
    split = [] if config.split is None else [_split(config, config.split)]
    clips = split[-1].name if split else "ingest"
    return [
        *raw,
        _ingest(config, data),
        *split,
        _on_media(config, "probe", config.probe, "decode:PROBE_OPERATOR", {"clips": clips}),
        _on_media(
            config,
            "motion",
            config.motion,
            "motion_scores:MOTION_OPERATOR",
            {"clips": "probe"},
            weights={"unimatch": weights["unimatch"]} if config.motion.estimator == "unimatch" else {},
            depends=("torch",),
            tier=Tolerance(),
        ),
        Stage(
            "tag",
            _CURATE,
            config.tag,
            "curation.sources:TAG_OPERATOR",
            inputs={"clips": "probe"},
            system_prompts="system_prompts.json",
        ),
        Stage(
            "select",
            _CURATE,
            _select(config),
            "curation.selection:SELECT_OPERATOR",
            inputs={"clips": "probe", "motion": "motion", "tag": "tag"},
        ),
        _page(config),
        Stage(
            "encode_text",
            _CURATE,
            config.encode_text.on(config.runtime.curation_device),
            "curation.prompts:ENCODE_TEXT_OPERATOR",
            inputs={"select": "select", "tag": "tag"},
            weights={"text_encoder": weights["text_encoder"]},
            depends=("torch", "transformers"),
            tier=Tolerance(),
        ),
        *(
            _on_media(
                config,
                f"encode_latents@{name}",
                latents.on(config.runtime.curation_device).model_copy(update={"name": name}),
                "latents:ENCODE_LATENTS_OPERATOR",
                {"select": "select", "tag": "tag"},
                weights={"vae": weights["vae"]},
                depends=("torch", "diffusers"),
                tier=Tolerance(),
            )
            for name, latents in config.latents.items()
        ),
    ]


def _render(shapes: RenderShapesConfig) -> Stage:
    return Stage("render_shapes", "jobs.shapes:run", shapes, depends=("av", "opencv-python-headless", "numpy"))


def _ingest(config: PipelineConfig, data: RenderShapesConfig | Manifest) -> Stage:
    entry, operator = "jobs.ingest:run", "curation.manifests:INGEST_OPERATOR"
    if config.data.manifest is None or not isinstance(data, Manifest):
        inputs = {"manifest": "render_shapes"}
        return Stage("ingest", entry, config.ingest, operator, inputs=inputs, media_root_from="manifest")
    manifest = place_of(config.data.manifest)
    return Stage(
        "ingest",
        entry,
        config.ingest,
        operator,
        locations={"manifest": manifest},
        facts={"media": external_digest(data, config.runtime.object_stores)},
        media_root=str(media_root(manifest, config.ingest)),
    )


def _split(config: PipelineConfig, shots: ShotsConfig) -> Stage:
    depends = ("scenedetect-headless",)
    return _on_media(config, "split", shots, "shots:SPLIT_OPERATOR", {"clips": "ingest"}, depends=depends)


def _page(config: PipelineConfig) -> Stage:
    stage = Stage(
        "curation_page",
        "jobs.curation_page:run",
        config.curation_page,
        inputs={"clips": "probe", "motion": "motion", "tag": "tag", "select": "select"},
        depends=(*_DECODERS, "pillow", "jinja2"),
        uses_cluster=False,
    )
    return _reads_media(config, stage)


def _on_media(
    config: PipelineConfig,
    name: str,
    section: Config,
    operator: str,
    inputs: Mapping[str, str],
    weights: Mapping[str, str] | None = None,
    depends: tuple[str, ...] = (),
    tier: Tier = BITWISE,
) -> Stage:
    """A curation stage that opens media files."""
    stage = Stage(
        name,
        _CURATE,
        section,
        f"curation.{operator}",
        inputs=inputs,
        weights=weights or {},
        depends=_DECODERS + depends,
        tier=tier,
    )
    return _reads_media(config, stage)


def _reads_media(config: PipelineConfig, stage: Stage) -> Stage:
    if config.data.manifest is None:
        return replace(stage, inputs={**stage.inputs, "media": "render_shapes"}, media_root_from="media")
    return replace(stage, media_root=str(media_root(place_of(config.data.manifest), config.ingest)))


def _training(config: PipelineConfig, start: Path | None) -> list[Stage]:
    stages: list[Stage] = []
    followed = {branch.after: branch for branch in config.branches()}
    for name, train in config.train.items():
        before = {"init": stages[-1].name} if stages else {}
        stage = _train(f"train@{name}", train, before)
        stage = stage if stages or start is None else replace(stage, weights={"init": str(start)})
        stages.append(_registered(stage, _BASE, followed[name]) if name in followed else stage)
    return stages


def _registered(stage: Stage, model: RegisteredModel, branch: Branch) -> Stage:
    return replace(stage, model=replace(model, alias=model.alias + branch.variant.replace("@", "-")))


def _train(name: str, config: TrainConfig, inputs: Mapping[str, str]) -> Stage:
    latents = {f"latents@{latents}": f"encode_latents@{latents}" for latents in config.latents}
    inputs = {**latents, "text": "encode_text", **inputs}
    return Stage(name, "jobs.train:run", config, inputs=inputs, depends=("torch", "deepspeed"), tier=Metric())


def _subset(config: PipelineConfig, branch: Branch, sources: tuple[str, ...]) -> list[Stage]:
    """Evaluate the system prompt of each source, choose, fine-tune on what was chosen, and export."""
    trained, variant = f"train@{branch.after}", branch.variant
    choose, finetune = f"choose{variant}", f"finetune{variant}"
    specs = config.weights.resolve()
    weights = {name: specs[name] for name in ("vae", "text_encoder")}
    settings = branch.evaluate.on(config.runtime.device).model_dump()
    # Real clips have no known truth: prompts are then captions of the run's own clips.
    captions = {"select": "select"} if branch.evaluate.suite.kind == "captions" else {}
    depends = ("torch", "diffusers", "transformers")
    media = branch.finetune.selected_media
    return [
        *(
            Stage(
                branch.evaluation(source),
                "jobs.evaluate:run",
                EvaluateConfig(**settings, source=source),
                inputs={"checkpoint": trained, "tag": "tag", **captions},
                weights=weights,
                depends=depends,
                tier=Metric(),
            )
            for source in sources
        ),
        Stage(
            choose,
            "jobs.choose:run",
            # Where files of scores lie is no part of the rule: they are known by content.
            branch.choose.model_copy(update={"scores": None}),
            files=branch.choose.score_files(),
            inputs={
                **{f"evaluate@{source}": branch.evaluation(source) for source in sources},
                # A source whose clips were all set aside has a system prompt, but nothing to fine-tune on.
                **{
                    f"{media}@{latents}": f"encode_latents@{latents}"
                    for latents in branch.finetune.latents
                    if media in config.latents[latents].media
                },
            },
            uses_cluster=False,
        ),
        _registered(_train(finetune, branch.finetune, {"init": trained, "selection": choose}), _BEST_SUBSET, branch),
        Stage(
            f"evaluate_final{variant}",
            "jobs.evaluate:run_final",
            EvaluateFinalConfig(**settings),
            inputs={"before": trained, "after": finetune, "selection": choose, "tag": "tag", **captions},
            weights=weights,
            depends=depends,
            tier=Metric(),
        ),
        _registered(
            Stage(
                f"export{variant}",
                "jobs.export:run",
                branch.export,
                inputs={"checkpoint": finetune, "tag": "tag", "selection": choose},
                weights=weights,
                depends=("torch", "safetensors"),
                uses_cluster=False,
            ),
            _FINAL,
            branch,
        ),
    ]
