"""Config checks against the clips and the weights, before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa

from curation.caption_choice import AGREEMENT
from curation.manifests import is_scanned
from curation.rules import score_columns
from curation.schema import AV_ALIGN, CAPTION, MOTION, PROBE, SOUND
from curation.score_columns import SCORERS
from curation.selection import check_no_motion, check_scores
from lumina.evaluation.score_files import read_scores
from lumina.files import read_json
from lumina.models.config import load_flow_config
from pipelines.base_config import BaseConfig
from pipelines.config import PipelineConfig
from pipelines.engine.fingerprint import locate_weights
from pipelines.engine.stage import VARIANT
from pipelines.errors import PipelineError
from pipelines.layout import Layout, trainable
from pipelines.sound_config import SoundPipelineConfig


def check_names(config: PipelineConfig, sources: tuple[str, ...]) -> None:
    """Compare the sources that a config names with those that there are.

    Raises:
        PipelineError: one is unknown, or cannot be part of a stage's name.
    """
    named = {f"{branch.prefix}export.source": {branch.export.source} - {None} for branch in config.branches()}
    for stage, training in config.training().items():
        for task in training.tasks:
            named[f"{stage}: source_weights of task {task.name}"] = set(task.source_weights or ())
    for where, names in named.items():
        unknown = sorted(str(name) for name in names - set(sources))
        if unknown:
            raise PipelineError(f"{where} names {', '.join(unknown)}; the sources are {', '.join(sources)}")
    for name in config.study:
        if not re.fullmatch(VARIANT, name):
            raise PipelineError(
                f"study.{name} names a stage (study@{name}): ASCII letters, digits, `_`, `.` and `-` alone are good"
            )
    for source in sources:
        if not re.fullmatch(VARIANT, source):
            raise PipelineError(
                f"source {source!r} names a stage of its own (evaluate@{source}), so it may hold only ASCII letters, "
                "digits, `_`, `.` and `-`: rename it in the manifest"
            )


def check_select(config: PipelineConfig, sources: tuple[str, ...]) -> None:
    """Compare the selection's rules with the sources, the latents sets and the scores that there are.

    Raises:
        PipelineError: one is unknown, or is filled in by the pipeline.
    """
    _check_named("sources", config.select.sources, sources, "sources")
    _check_named("sets", config.select.sets, tuple(config.latents), "latents sets")
    filled = {"select.encoded": config.select.encoded} | {
        f"latents.{name}.name": one.name for name, one in config.latents.items()
    }
    _check_not_given(filled)
    _check_captions(config, sources)
    _check_scores(config, {"probe": PROBE, "motion": MOTION})


def check_sound_select(config: SoundPipelineConfig, sources: tuple[str, ...]) -> None:
    """As `check_select`, where no motion is measured and the sets are the rules' own.

    Raises:
        PipelineError: a rule names what there is not, or is about motion.
    """
    _check_named("sources", config.select.sources, sources, "sources")
    for name, stage in config.train.items():
        if unknown := sorted(set(stage.source_weights or {}) - set(sources)):
            raise PipelineError(
                f"train.{name}.source_weights names {', '.join(unknown)}; the sources are {', '.join(sources)}"
            )
    _check_not_given({"select.encoded": config.select.encoded})
    _check_captions(config, sources)
    try:
        check_no_motion(config.select)
    except ValueError as error:
        raise PipelineError(str(error)) from error
    _check_scores(config, {"probe": PROBE, "sound": SOUND, "av_align": AV_ALIGN})


def _check_named(where: str, names: Collection[str], known: tuple[str, ...], kind: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise PipelineError(f"select.{where} names {', '.join(unknown)}; the {kind} are {', '.join(known)}")


def _check_not_given(filled: Mapping[str, object]) -> None:
    if given := [key for key, value in filled.items() if value]:
        raise PipelineError(f"{', '.join(given)}: leave it out, the pipeline fills it in")


def _check_captions(config: BaseConfig, sources: tuple[str, ...]) -> None:
    _check_not_given({"select.caption": config.select.caption})
    if unknown := sorted(set(config.caption.templates if config.caption else ()) - set(sources)):
        raise PipelineError(f"caption.templates names {', '.join(unknown)}; the sources are {', '.join(sources)}")


def _check_scores(config: BaseConfig, schemas: Mapping[str, pa.Schema]) -> None:
    measured = {name: where for where, schema in schemas.items() for name in score_columns(schema)}
    measured |= {name: f"scores.{scorer}" for scorer in config.scores.scorers for name in SCORERS[scorer]}
    if config.caption is not None:
        measured |= dict.fromkeys((AGREEMENT, *score_columns(CAPTION)), "caption")
    elif where := config.select.scores_named().get(AGREEMENT):
        raise PipelineError(f"select.{where} names {AGREEMENT!r}, but nothing captions clips: set caption.endpoint")
    off = {name: scorer for scorer, names in SCORERS.items() for name in names if scorer not in config.scores.scorers}
    for stage, scoring in config.scoring.items():
        for name in scoring.columns():
            if other := measured.get(name):
                raise PipelineError(f"scoring.{stage} measures {name!r}, as does {other}: a rule could name either")
            measured[name] = f"scoring.{stage}"
    for name, where in config.select.scores_named().items():
        if name in off and name not in measured:
            raise PipelineError(
                f"select.{where} names {name!r}, which the scorer {off[name]} measures, and that is off: "
                f"set scores.{off[name]}={{}}"
            )
    try:
        # The manifest's own columns are known once it is read: the stage checks those.
        check_scores(config.select, measured, extra=False)
    except ValueError as error:
        raise PipelineError(str(error)) from error


def check_scores_given(config: PipelineConfig, sources: tuple[str, ...], layout: Layout) -> None:
    """Read the scores from elsewhere that a choice goes by.

    Raises:
        PipelineError: they cannot be used, or lack a source that may be chosen.
    """
    for branch in config.branches():
        if branch.choose.scores is not None:
            try:
                read_scores(branch.choose.scores, branch.choose.score, trainable(layout, branch.finetune), sources)
            except (OSError, ValueError) as error:
                raise PipelineError(f"{branch.prefix}choose.scores: {error}") from error


def check_store(config: BaseConfig) -> None:
    """Keep the store out of a folder that is scanned for clips.

    Raises:
        PipelineError: it lies there.
    """
    folder = config.data.manifest
    in_bucket = "://" in config.store and not config.store.startswith("file://")
    if folder is None or in_bucket or not is_scanned(folder, config.ingest):
        return
    store = Path(config.store.removeprefix("file://")).expanduser().resolve()
    if store.is_relative_to(folder.resolve()):
        raise PipelineError(
            f"store {store} lies in the folder of clips {folder}, where the clips that it will hold would be taken for "
            "yours: choose another with --store"
        )


def check_weights(config: PipelineConfig) -> None:
    """Find the pretrained networks, and compare their widths with the model's as far as their configs tell.

    Raises:
        PipelineError: naming the setting, and what to do.
    """
    for name, path, field in (
        ("vae", ("latent_channels",), "in_channels"),
        ("text_encoder", ("hidden_size",), "cap_feat_dim"),
    ):
        _check_width(config, name, "", path, field)
    _check_flow_network(config)


def check_sound_weights(config: SoundPipelineConfig) -> None:
    """As `check_weights`. What is one file of an original checkpoint tells its widths only when it is loaded.

    Raises:
        PipelineError: naming the setting, and what to do.
    """
    for name, below, path, field in (
        ("audio_codec", "vae", ("latent_channels",), "in_channels"),
        ("clip", "", ("projection_dim",), "visual_dim"),
        ("clip", "", ("text_config", "hidden_size"), "text_dim"),
        ("clip", "", ("text_config", "max_position_embeddings"), "text_tokens"),
        ("synchformer", "", ("width",), "sync_dim"),
    ):
        if not locate_weights(config.weights.resolve()[name], f"weights.{name}").path.is_file():
            _check_width(config, name, below, path, field)


def _check_width(
    config: PipelineConfig | SoundPipelineConfig, name: str, below: str, path: tuple[str, ...], field: str
) -> None:
    spec = config.weights.resolve()[name]
    directory = locate_weights(spec, f"weights.{name}").path
    file = directory / below / "config.json"
    if not file.is_file():
        raise PipelineError(f"weights.{name}: {file.parent} holds no config.json, so it is no pretrained network")
    key = ".".join(path)
    try:
        width = read_json(file)
        for part in path:
            width = width[part]
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"weights.{name}: {file} does not say {key!r}: is it another kind of network?") from error
    if width != getattr(config.model, field):
        raise PipelineError(
            f"model.{field} is {getattr(config.model, field)}, but weights.{name} ({spec}) has {key} {width}: "
            f"set model.{field}={width}"
        )


def starting_weights(config: PipelineConfig | SoundPipelineConfig) -> Path | None:
    """Directory of the transformer that training starts from, if one is given.

    Raises:
        PipelineError: it is none of ours, or another network than the config's.
    """
    spec = config.weights.resolve().get("transformer")
    if spec is None:
        return None
    found = locate_weights(spec, "weights.transformer").path
    directory = found / "transformer" if (found / "transformer").is_dir() else found
    file = directory / "config.json"
    try:
        model = type(config.model).model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(config, SoundPipelineConfig):
            raise PipelineError(
                f"weights.transformer: {found} holds no video-to-audio transformer: give the output of a training "
                "stage, or the export, of such a run"
            ) from error
        raise PipelineError(
            f"weights.transformer: {found} holds no transformer of ours; a released one is made one by "
            "`lumina convert SOURCE OUT`"
        ) from error
    different = [
        f"model.{name}={json.dumps(value)}"
        for name, value in model.model_dump(mode="json").items()
        if value != config.model.model_dump(mode="json")[name]
    ]
    if different:
        raise PipelineError(f"weights.transformer: {directory} is another network: set {' '.join(different)}")
    return directory


def _check_flow_network(config: PipelineConfig) -> None:
    if config.motion.estimator != "unimatch":
        return
    try:
        network = load_flow_config(locate_weights(config.weights.resolve()["unimatch"], "weights.unimatch").path)
    except (OSError, ValueError) as error:
        raise PipelineError(f"weights.unimatch: {error}") from error
    for side in ("height", "width"):
        length = getattr(config.motion, side)
        if length % network.multiple:
            nearest = max(1, round(length / network.multiple)) * network.multiple
            raise PipelineError(
                f"motion.{side} is {length}, but the flow network of weights.unimatch needs a multiple of "
                f"{network.multiple}: set motion.{side}={nearest}"
            )
