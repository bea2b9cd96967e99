"""Stage `export`: put the fine-tuned weights and everything they need into one directory, for `lumina generate` and for
people who have the library diffusers and none of our code."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from jobs.context import Job, JobContext, JobResult
from lumina.evaluation.selection import Selection
from lumina.files import sha256_file
from lumina.generation_config import GenerationConfig
from lumina.parts import SYSTEM_PROMPTS_FILE, TEXT_ENCODER, TRANSFORMER, VAE, copy_part, write_texts
from lumina.pretrained import local_folder

LINEAGE_FILE = "lineage.json"
_TOLD = ("chosen", "sources", "decided_by", "reason")


class ExportConfig(GenerationConfig):
    """What the exported model generates when nothing else is asked for."""


@partial(Job, weights=("vae", "text_encoder"), depends=("torch", "safetensors", "diffusers"), uses_cluster=False)
def run(ctx: JobContext) -> JobResult:
    """Write a TextToVideo directory that is a diffusers pipeline too, its model card and its lineage.

    Inputs: checkpoint (its averaged weights are exported), tag (system_prompts.json), and optionally selection
    (selection.json), whose best source becomes the default one unless the config names another.

    Raises:
        ValueError: the default source has no system prompt.
        FileNotFoundError: a part is missing.
    """
    from lumina.checkpoints import digest, load_config, load_weights, save_weights
    from lumina.diffusers_export.layout import write_diffusers
    from lumina.diffusers_export.model_card import Origin, write_card
    from lumina.system_prompts import read_system_prompts

    config: ExportConfig = ctx.config
    prompts = read_system_prompts(ctx.inputs["tag"].path / SYSTEM_PROMPTS_FILE)
    choice = Selection.load(ctx.inputs["selection"].path) if "selection" in ctx.inputs else None
    source = config.source or (choice and choice.chosen)
    if source is not None and source not in prompts:
        raise ValueError(f"export.source is {source!r}, but there are system prompts only for {', '.join(prompts)}")
    checkpoint = ctx.inputs["checkpoint"].path / "transformer_ema"
    weights = load_weights(checkpoint)
    save_weights(load_config(checkpoint), weights, ctx.out / TRANSFORMER)
    ctx.progress(1, 3, "parts")
    copy_part(local_folder(ctx.weights["vae"]), ctx.out / VAE)
    ctx.progress(2, 3, "parts")
    copy_part(local_folder(ctx.weights["text_encoder"]), ctx.out / TEXT_ENCODER)
    defaults = GenerationConfig.model_validate(config.model_dump() | {"source": source})
    write_texts(ctx.out, prompts.values(), defaults)
    write_diffusers(ctx.out)
    inputs = {ref.stage: ref.digest for ref in ctx.inputs.values()}
    origin = Origin(ctx.stage, ctx.fingerprint, inputs, _clips(ctx.inputs["tag"].path), choice)
    write_card(ctx.out, prompts.values(), defaults, origin)
    files = sorted(path for path in ctx.out.rglob("*") if path.is_file())
    lineage = {
        "stage": ctx.stage,
        "fingerprint": ctx.fingerprint,
        "inputs": {key: {"stage": ref.stage, "digest": ref.digest} for key, ref in sorted(ctx.inputs.items())},
        **({"choice": {key: value for key in _TOLD if (value := getattr(choice, key))}} if choice else {}),
        "files_sha256": {path.relative_to(ctx.out).as_posix(): sha256_file(path) for path in files},
    }
    (ctx.out / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1) + "\n", encoding="utf-8")
    ctx.progress(3, 3, "parts")
    return JobResult(
        kind="checkpoint",
        digest=digest({TRANSFORMER: weights}),
        metrics={"parameters": float(sum(value.numel() for value in weights.values()))},
        artifacts=(LINEAGE_FILE,),
        weights={TRANSFORMER: TRANSFORMER},
    )


def _clips(tagged: Path) -> dict[str, int]:
    """How many clips each source has, of all that are not set aside."""
    from curation.operator import Input
    from curation.schema import Status

    rows = Input(tagged).rows(["source", "status"])
    good = rows["source"].filter([status == Status.OK for status in rows["status"].to_pylist()])
    return {str(one["values"]): int(one["counts"]) for one in good.value_counts().to_pylist()}
