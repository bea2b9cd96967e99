"""Stage `export` of a video-to-audio run: the trained weights and everything they need in one directory, for
`lumina sound` and `lumina generate --sound`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from jobs.context import Job, JobContext, JobResult
from jobs.export import LINEAGE_FILE
from lumina.files import sha256_file
from lumina.parts import SOUND_FILE, TRANSFORMER
from lumina.video_to_audio.sound_parts import CLIP, CODEC, SYNCHFORMER, SoundGenerationConfig


class SoundExportConfig(SoundGenerationConfig):
    """What the exported model makes sounds with when nothing else is asked for."""


@partial(
    Job,
    weights=("audio_codec", "clip", "synchformer"),
    depends=("torch", "safetensors", "diffusers", "transformers"),
    uses_cluster=False,
)
def run(ctx: JobContext) -> JobResult:
    """Write a directory that `SoundModel.load` takes, its model card and its lineage.

    Input: checkpoint (its averaged weights are exported). All parts are loaded and held against each other.

    Raises:
        ValueError: the checkpoint is a text-to-video one, or a part does not fit it.
        FileNotFoundError: a part is missing.
    """
    from lumina.checkpoints import digest
    from lumina.diffusers_export.model_card import Origin
    from lumina.video_to_audio.checkpoints import load_config, load_weights, save_weights
    from lumina.video_to_audio.sound_card import write_sound_card
    from lumina.video_to_audio.sound_model import SoundModel
    from lumina.video_to_audio.sound_networks import write_networks

    config: SoundExportConfig = ctx.config
    checkpoint = ctx.inputs["checkpoint"].path / "transformer_ema"
    weights = load_weights(checkpoint)
    save_weights(load_config(checkpoint), weights, ctx.out / TRANSFORMER)
    ctx.progress(1, 3, "parts")
    sources = {CODEC: ctx.weights["audio_codec"], CLIP: ctx.weights["clip"], SYNCHFORMER: ctx.weights["synchformer"]}
    write_networks(sources, ctx.out)
    settings = SoundGenerationConfig.model_validate(config.model_dump())
    (ctx.out / SOUND_FILE).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
    ctx.progress(2, 3, "parts")
    model = SoundModel.load(ctx.out)
    inputs = {ref.stage: ref.digest for ref in ctx.inputs.values()}
    write_sound_card(ctx.out, settings, Origin(ctx.stage, ctx.fingerprint, inputs), type(model.codec.vocoder).__name__)
    _write_lineage(ctx)
    ctx.progress(3, 3, "parts")
    return JobResult(
        kind="checkpoint",
        digest=digest({TRANSFORMER: weights}),
        metrics={"parameters": float(sum(value.numel() for value in weights.values()))},
        artifacts=(LINEAGE_FILE,),
        weights={TRANSFORMER: TRANSFORMER},
    )


def _write_lineage(ctx: JobContext) -> None:
    files: list[Path] = sorted(path for path in ctx.out.rglob("*") if path.is_file())
    lineage = {
        "stage": ctx.stage,
        "fingerprint": ctx.fingerprint,
        "inputs": {key: {"stage": ref.stage, "digest": ref.digest} for key, ref in sorted(ctx.inputs.items())},
        "files_sha256": {path.relative_to(ctx.out).as_posix(): sha256_file(path) for path in files},
    }
    (ctx.out / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1) + "\n", encoding="utf-8")
