"""Stages as every DAG makes them: of an operator or a job, with its weights, media, versions and tolerance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from curation.caption_choice import AGREEMENT
from curation.caption_config import CaptionConfig
from curation.duplicate_clusters import EMBEDDED
from curation.embeddings import WEIGHTS
from curation.hashed_clips import FrameHashesConfig
from curation.manifests import Manifest, external_digest, media_root, read_manifest
from curation.operator import Operator, load_operator
from curation.page import CurationPageConfig, PageConfig
from curation.page_scores import ScoreLimits, is_scores
from curation.rules import score_columns
from curation.schema import CAPTION
from curation.score_columns import columns_of
from curation.scores import NETWORK_LIBRARIES, OCR_LIBRARIES
from curation.selection import DUPLICATES, SelectConfig
from jobs import curation_page, shapes
from jobs.context import Job
from jobs.shapes import RenderShapesConfig
from lumina.config import Config
from lumina.files import place_of
from pipelines.base_config import BaseConfig, resolve
from pipelines.engine.stage import Stage
from pipelines.engine.tolerance import read_tier
from pipelines.errors import PipelineError

_DECODERS = ("av", "opencv-python-headless")


def sources_of(data: RenderShapesConfig | Manifest) -> tuple[str, ...]:
    """The sources in the raw data, sorted: known before anything runs, since each is evaluated on its own."""
    if isinstance(data, Manifest):
        return data.sources
    return tuple(sorted({name for counts in (data.clips, data.images) for name, count in counts.items() if count}))


def raw(config: BaseConfig) -> RenderShapesConfig | Manifest:
    """What is rendered, or the manifest: read once, for it may be long."""
    if config.data.shapes is not None:
        return config.data.shapes
    if config.data.manifest is None:
        raise AssertionError("DataConfig lets data through that is neither Shapes nor a manifest")
    return read_manifest(config.data.manifest, config.ingest)


def read_clips(config: BaseConfig, data: RenderShapesConfig | Manifest) -> list[Stage]:
    """From raw clips to `probe`."""
    split = [curate(config, "curation.shots:SPLIT_OPERATOR", config.split, clips="ingest")] if config.split else []
    return [
        *([job(config, "render_shapes", shapes.run, config.data.shapes, {})] if config.data.shapes else []),
        _ingest(config, data),
        *split,
        curate(config, "curation.decode:PROBE_OPERATOR", config.probe, clips="split" if split else "ingest"),
    ]


def score_clips(config: BaseConfig) -> list[Stage]:
    """The stages of the sections `scores`, where a scorer is on, `scoring` and `caption`."""
    for name, one in config.scoring.items():
        if config.caption is None and "caption" in load_operator(one.operator).inputs:
            raise PipelineError(f"scoring.{name} reads new captions, but nothing captions clips: set caption.endpoint")
    added = [
        curate(
            config,
            one.operator,
            one.settings,
            f"score@{name}",
            weights={key: resolve(place) for key, place in one.weights.items()},
        )
        for name, one in config.scoring.items()
    ]
    added += [_captions(config, config.caption)] if config.caption is not None else []
    return [_scores(config), *added] if config.scores.scorers else added


def _scores(config: BaseConfig) -> Stage:
    places = config.scores.networks()
    if missing := [name for name, place in places.items() if place is None]:
        raise PipelineError(f"scores.{missing[0]} is not given: name a path, or a model of the hub as hf:owner/name")
    given = {name: resolve(place) for name, place in places.items() if place is not None}
    reads = OCR_LIBRARIES if config.scores.text is not None else ()
    if absent := [name for name in reads if find_spec(name) is None]:
        raise PipelineError(f"scores.text: {absent[0]} is not installed; `pip install 'lumina-video[ocr]'` brings it")
    stage = curate(config, "curation.scores:SCORES_OPERATOR", config.scores.identity())
    networks = NETWORK_LIBRARIES if given else ()
    return replace(stage, weights=given, depends=(*stage.depends, *networks, *reads))


def _captions(config: BaseConfig, caption: CaptionConfig) -> Stage:
    stage = curate(config, "curation.captions:CAPTION_OPERATOR", caption.identity(config.runtime.curation_device))
    if caption.endpoint is None:
        weights = {"model": resolve(caption.model or "")}
        return replace(stage, weights=weights, depends=(*stage.depends, "torch", "transformers"))
    if caption.endpoint.url is None:
        raise PipelineError("caption.endpoint.url is not given: name the server, such as http://localhost:8000/v1")
    # Where it is, and how it is asked, changes no answer.
    return executed(stage, aside=caption.endpoint)


def select_clips(config: BaseConfig, policy: SelectConfig, inputs: Collection[str]) -> Stage:
    """Selection from the stages of these names; of `scores`, `scoring` and `caption` it reads what a rule names, and of
    the last also what trains, and no others."""
    named, caption = config.select.scores_named(), config.caption
    told = {AGREEMENT, *score_columns(CAPTION)}
    captioned = caption is not None and (caption.use != "original" or bool(named.keys() & told))
    if caption is not None and captioned:
        policy = policy.model_copy(update={"caption": caption.choice()})
    stage = curate(config, "curation.selection:SELECT_OPERATOR", policy)
    scored = [f"score@{name}" for name, one in config.scoring.items() if named.keys() & one.columns()]
    scored += ["scores"] if named.keys() & set(columns_of(config.scores.scorers)) else []
    scored += ["caption"] if captioned else []
    return replace(stage, inputs={**stage.inputs, **{name: name for name in (*inputs, *scored)}})


def show_curation(config: BaseConfig, section: CurationPageConfig, inputs: Collection[str]) -> Stage:
    """The page of the stages of these names, and of all that score and caption; limits are those of `select`."""
    read = [*inputs, *(stage.name for stage in score_clips(config))]
    is_scored = any(is_scores(name) for name in read)
    page = PageConfig(**section.model_dump(), limits=_limits(config.select) if is_scored else {})
    return job(
        config,
        "curation_page",
        curation_page.run,
        page,
        {"clips": "probe", "select": "select", **{name: name for name in read}},
    )


def _limits(policy: SelectConfig) -> dict[str, ScoreLimits]:
    """What the policy asks of each score."""
    return {
        name: ScoreLimits(
            every=policy.scores.get(name),
            sources={one: rules.scores[name] for one, rules in policy.sources.items() if name in rules.scores},
            sets={one: found for one, rules in policy.sets.items() if (found := rules.scores.get(name)) is not None},
        )
        for name in sorted(policy.scores_named())
    }


def find_duplicates(config: BaseConfig) -> list[Stage]:
    """The stages that find near-duplicates, where there is the section `duplicates`."""
    if config.duplicates is None:
        return []
    hashes = curate(config, "curation.hashed_clips:FRAME_HASHES_OPERATOR", FrameHashesConfig())
    found = curate(config, "curation.duplicate_clusters:DUPLICATES_OPERATOR", config.duplicates.identity())
    semantic = config.duplicates.semantic
    if semantic is None:
        return [hashes, found]
    if semantic.weights is None:
        raise PipelineError(f"{WEIGHTS} is not given: name a path, or a model of the hub as hf:owner/name")
    given = {WEIGHTS: resolve(semantic.weights)}
    embeddings = curate(config, "curation.embeddings:EMBEDDINGS_OPERATOR", semantic.embeddings(), weights=given)
    return [hashes, embeddings, replace(found, inputs={**found.inputs, EMBEDDED: embeddings.name})]


def duplicates_found(config: BaseConfig) -> tuple[str, ...]:
    """The stage that tells which clips are near-duplicates, if there is one."""
    return () if config.duplicates is None else (DUPLICATES,)


def _ingest(config: BaseConfig, data: RenderShapesConfig | Manifest) -> Stage:
    stage = replace(
        curate(config, "curation.manifests:INGEST_OPERATOR", config.ingest),
        entry="jobs.ingest:run",
        inputs={"manifest": "render_shapes"},
    )
    if config.data.manifest is None or not isinstance(data, Manifest):
        return executed(stage, media_root_from="manifest")
    manifest = place_of(config.data.manifest)
    stage = replace(stage, inputs={}, facts={"media": external_digest(data, config.runtime.object_stores)})
    return executed(stage, locations={"manifest": manifest}, media_root=str(media_root(manifest, config.ingest)))


def curate(
    config: BaseConfig,
    reference: str,
    section: Config,
    name: str = "",
    clips: str = "probe",
    weights: Mapping[str, str] | None = None,
) -> Stage:
    """A stage of an operator, `module:NAME`, with what that declares; its other inputs are the stages of their names.

    It is named after the operator unless it has a `name`; `clips` is the stage that its input of that name is.
    """
    operator = load_operator(reference)
    inputs = {key: clips if key == "clips" else key for key in operator.inputs}
    stage = Stage(name or operator.name, "jobs.curate:run", section, reference, inputs=inputs)
    loaded = operator.weights if operator.runs_network(section) else ()
    return _declared(config, stage, operator, loaded, weights or {})


def job(config: BaseConfig, name: str, job: Job, section: Config, inputs: Mapping[str, str]) -> Stage:
    """A stage of a job, with what that declares."""
    stage = _declared(config, Stage(name, job.entry, section, inputs=inputs), job, job.weights, {})
    return executed(stage, uses_cluster=job.uses_cluster)


def _declared(
    config: BaseConfig, stage: Stage, code: Operator | Job, weights: Sequence[str], given: Mapping[str, str]
) -> Stage:
    specs = {**config.weights.resolve(), **given}
    if missing := [name for name in weights if name not in specs]:
        raise PipelineError(f"stage {stage.name} loads {', '.join(missing)}, which its setting `weights` does not name")
    stage = replace(
        stage,
        version=code.version,
        weights={name: specs[name] for name in weights},
        depends=(*_DECODERS, *code.depends) if code.reads_media else code.depends,
    )
    stage = executed(stage, tier=read_tier({"kind": code.tier}))
    if not code.reads_media:
        return stage
    if config.data.manifest is None:
        return executed(replace(stage, inputs={**stage.inputs, "media": "render_shapes"}), media_root_from="media")
    return executed(stage, media_root=str(media_root(place_of(config.data.manifest), config.ingest)))


def executed(stage: Stage, **changes: Any) -> Stage:
    """The stage, executed otherwise."""
    return replace(stage, execution=replace(stage.execution, **changes))
