"""Stages `evaluate@<source>` and `evaluate_final`: generate clips of fixed prompts, measure them, give intervals.

Every system prompt is evaluated on the same prompts from the same initial noise, so that they can be paired. Clips are
measured as the VAE decodes them, before H.264. Rows: one per clip, with `frames_sha256`, the identity of its pixels.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from jobs.context import Evaluation, Job, JobContext, JobResult
from jobs.evaluation_parts import (
    clip_job,
    evaluation_metrics,
    evaluation_params,
    system_prompt_of,
    write_clip_rows,
    write_json,
)
from lumina.config import Config
from lumina.evaluation.metrics import METRICS, Estimate, difference
from lumina.evaluation.prompts import Caption, Prompt, PromptSet, ShapesSuite, Split, Suite, build
from lumina.evaluation.selection import METRICS_FILE, Selection
from lumina.evaluation.summary import columns_of, estimates, interval_json, pivot
from lumina.flow_matching.schedules import Sampler, SamplerConfig
from lumina.precision import Precision, precision_on
from lumina.prompt_length import cut_message
from lumina.vbench.suite_config import VBenchSuite

SHEET_FILE = "contact_sheet.png"
_SHOWN_CLIPS = 4
_SHEET_CLIPS = 12
log = logging.getLogger(__name__)


class EvaluationConfig(Config):
    """What is generated and measured; the same for every system prompt."""

    suite: Suite = Field(default=ShapesSuite())
    """The prompts: `kind` shapes, captions, list or vbench."""
    sampler: Sampler = Field(default=SamplerConfig())
    """How clips are sampled."""
    num_frames: int = Field(default=16, ge=8, multiple_of=4)
    """Frames of a clip; a latent frame is four frames."""
    height: int = Field(default=64, ge=16, multiple_of=16)
    """Pixels."""
    width: int = Field(default=64, ge=16, multiple_of=16)
    """Pixels."""
    fps: float = Field(default=8.0, gt=0)
    """Frames per second: how fast the clips play, and what measured speeds refer to."""
    samples: int = Field(default=2, ge=1)
    """Clips of each prompt, from different noises."""
    batch_size: int = Field(default=8, ge=1)
    """Clips generated together. It changes bits, so it is part of the stage's identity."""
    seed: int = 0
    """Seed of prompts, noises and bootstrap."""
    metrics: tuple[str, ...] | None = Field(default=None, min_length=1)
    """What is measured; None is everything that the suite allows (`shapes/` metrics need the shapes suite)."""
    dtype: Precision = "auto"
    """Type in which all networks compute; `auto` is bfloat16 on GPUs and float32 on CPUs."""
    tiling: bool = False
    """Decode large frames in overlapping tiles: a few GB instead of up to 40 at 960 pixels, and slightly other pixels.
    Clips are decoded one by one, and eight frames at a time, in any case."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of the prompts."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of each interval."""

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if isinstance(self.suite, VBenchSuite):
            if self.metrics is not None:
                raise ValueError("metrics are those of other suites: of kind vbench, suite.dimensions are judged")
            self.suite.check_clips(self.width, self.height, self.num_frames, self.fps, self.samples)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.metrics or ():
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}; there are {', '.join(sorted(METRICS))}")
            if METRICS[name].needs == "truth" and not isinstance(self.suite, ShapesSuite):
                raise ValueError(f"metric {name!r} needs prompts whose truth is known: suite.kind must be shapes")
        if self.num_frames <= round(self.fps / 8):
            raise ValueError(f"{self.num_frames} frames at {self.fps} fps are too short to measure motion")
        latent = (self.num_frames // 4, self.height // 8, self.width // 8)
        for _, patch in self.sampler.patches:
            if any(size % part for size, part in zip(latent, patch, strict=True)):
                raise ValueError(
                    f"{self.num_frames} frames of {self.width}x{self.height} are latents of (frames, rows, columns) "
                    f"{latent}, which patch size {patch} does not divide"
                )
        return self

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        return self.model_copy(update={"dtype": precision_on(device, self.dtype)})

    def measured(self) -> tuple[str, ...]:
        """The metrics in effect, in the order of METRICS; of VBench, the figures in that of Table 4."""
        if isinstance(self.suite, VBenchSuite):
            return self.suite.figures()
        known = isinstance(self.suite, ShapesSuite)
        return tuple(
            n for n, m in METRICS.items() if (n in self.metrics if self.metrics else known or m.needs != "truth")
        )


class EvaluateConfig(EvaluationConfig):
    """Config of `evaluate@<source>`."""

    source: str = Field(min_length=1)
    """Whose system prompt is evaluated."""


class EvaluateFinalConfig(EvaluationConfig):
    """Config of `evaluate_final`; the system prompt is the one that `choose` chose."""


@dataclass(frozen=True)
class _Model:
    """A checkpoint to evaluate."""

    name: str
    """In the rows."""
    key: str
    """Of the job's input."""
    videos: str
    """Folder below the job's `out`."""


@dataclass(frozen=True)
class _Evaluated:
    """One checkpoint under one system prompt."""

    rows: list[dict[str, Any]]
    estimates: dict[str, Estimate]
    videos: tuple[str, ...]
    """Relative to the job's `out`, sorted."""
    prompts_cut: int
    """Prompts that are longer than the text encoder takes."""


@partial(Job, weights=("vae", "text_encoder"), depends=("torch", "diffusers", "transformers"), tier="metric")
def run(ctx: JobContext) -> JobResult:
    """Evaluate input `checkpoint` under the system prompt of `config.source` (config: EvaluateConfig).

    Inputs: checkpoint, tag (system_prompts.json), and for the captions suite select. Writes data/, videos/,
    metrics.json and contact_sheet.png.

    Raises:
        ValueError: the source has no system prompt, or the captions suite finds no captions.
    """
    config: EvaluateConfig = ctx.config
    prompts = read_prompts(ctx, "choose")
    label = ctx.inputs["checkpoint"].stage
    [evaluated] = _evaluate(ctx, config.source, prompts.prompts, [_Model(label, "checkpoint", "videos")])
    summary = _describe(config, config.source, prompts, "choose", evaluated) | {
        "checkpoint": label,
        "metrics": _intervals(evaluated.estimates, config.confidence),
    }
    write_json(ctx.out / METRICS_FILE, summary)
    _write_sheet(ctx.out / SHEET_FILE, prompts.prompts, {label: ctx.out / "videos"})
    evaluation = _evaluation(ctx, f"{config.source} | {label}", label, config.source, prompts, "choose", evaluated)
    return _result(ctx, evaluated.rows, (evaluation,), {n: e.value for n, e in evaluated.estimates.items()})


@partial(Job, weights=("vae", "text_encoder"), depends=("torch", "diffusers", "transformers"), tier="metric")
def run_final(ctx: JobContext) -> JobResult:
    """Evaluate inputs `before` and `after` on the prompts that the choice did not see (config: EvaluateFinalConfig).

    Inputs: before, after, selection (selection.json), tag, and for the captions suite select. Writes data/, videos/,
    metrics.json with `before`, `after` and their paired `difference`, and contact_sheet.png.

    Raises:
        ValueError: the chosen source has no system prompt, or the captions suite finds no captions.
    """
    config: EvaluateFinalConfig = ctx.config
    chosen = Selection.load(ctx.inputs["selection"].path).chosen
    prompts = read_prompts(ctx, "report")
    models = [_Model(name, name, f"videos/{name}") for name in ("before", "after")]
    found = dict(zip(("before", "after"), _evaluate(ctx, chosen, prompts.prompts, models), strict=True))
    before, after = found["before"].estimates, found["after"].estimates
    differences = {n: difference(before[n], after[n]) for n in before}
    summary = _describe(config, chosen, prompts, "report", found["after"]) | {
        "checkpoints": {model: ctx.inputs[model].stage for model in found},
        "before": _intervals(before, config.confidence),
        "after": _intervals(after, config.confidence),
        "difference": _intervals(differences, config.confidence),
    }
    write_json(ctx.out / METRICS_FILE, summary)
    _write_sheet(ctx.out / SHEET_FILE, prompts.prompts, {model: ctx.out / "videos" / model for model in found})
    evaluations = tuple(
        _evaluation(
            ctx,
            f"{chosen} | {model} | {ctx.inputs[model].stage}",
            ctx.inputs[model].stage,
            chosen,
            prompts,
            "report",
            e,
        )
        for model, e in found.items()
    )
    figures = {f"{model}/{n}": e.value for model, one in found.items() for n, e in one.estimates.items()}
    figures |= {f"difference/{name}": one.value for name, one in differences.items()}
    return _result(ctx, [row for one in found.values() for row in one.rows], evaluations, figures)


def read_prompts(ctx: JobContext, split: Split) -> PromptSet:
    """The prompts of one half of the config's suite; ValueError if the captions suite finds no captions."""
    config: EvaluationConfig = ctx.config
    if isinstance(config.suite, VBenchSuite):
        raise AssertionError("jobs.evaluate_vbench evaluates it")
    captions: list[Caption] = []
    if config.suite.kind == "captions":
        import pyarrow.dataset as dataset

        columns = ["caption", "source", "split", "media"]
        kept = (dataset.field("status") == "ok") & dataset.field("keep") & dataset.field("caption").is_valid()
        rows = dataset.dataset(ctx.inputs["select"].path / "data").to_table(columns=columns, filter=kept).to_pylist()
        # Videos are what is generated; what pictures show may not move.
        rows = [row for row in rows if row["media"] == "video"] or rows
        captions = [Caption(row["caption"], row["source"], row["split"] == "heldout") for row in rows]
    return build(config.suite, split, config.seed, captions)


def _evaluate(ctx: JobContext, source: str, prompts: Sequence[Prompt], models: Sequence[_Model]) -> list[_Evaluated]:
    """Generate and measure all clips of the models under one system prompt."""
    from jobs.clips import ClipRequest, batches, make_clips
    from lumina.evaluation.noise import evaluation_noise

    config: EvaluationConfig = ctx.config
    system_prompt = system_prompt_of(ctx, source)
    names = config.measured()
    made = [(prompt, sample) for prompt in prompts for sample in range(config.samples)]
    requests = [
        ClipRequest(
            prompt.caption,
            evaluation_noise(config.seed, prompt.prompt_id, sample),
            f"{prompt.prompt_id}-{sample}.mp4",
            truth=prompt.truth,
        )
        for prompt, sample in made
    ]
    work = []
    for model in models:
        job = clip_job(ctx, model.key, system_prompt.text, names)
        work += batches(job, requests, config.batch_size, ctx.work / model.name, ctx.fingerprint)
    measured = make_clips(work, ctx.runtime, lambda done, total: ctx.progress(done, total, "clips"))
    cuts = {prompt.prompt_id: row["tokens_cut"] for (prompt, _), row in zip(made * len(models), measured, strict=True)}
    message = cut_message(list(cuts.values()), "shorten them")
    if message:
        log.warning("%s: %s", ctx.stage, message)
    columns = columns_of(names)
    evaluated = []
    for number, model in enumerate(models):
        folder = ctx.out / model.videos
        folder.mkdir(parents=True)
        for clip in sorted((ctx.work / model.name).glob("batch-*/*.mp4")):
            shutil.copyfile(clip, folder / clip.name)
        own = measured[number * len(made) : (number + 1) * len(made)]
        rows = [
            {
                "model": model.name,
                "source": source,
                "system_prompt_id": system_prompt.system_prompt_id,
                "prompt_id": prompt.prompt_id,
                "prompt": prompt.caption,
                "seed": config.seed,
                "sample": sample,
                "video": f"{model.videos}/{row['file']}",
                "frames_sha256": row["frames_sha256"],
                **({"stratum": prompt.stratum} if prompt.stratum is not None else {}),
                **{name: row[name] for name in columns},
            }
            for (prompt, sample), row in zip(made, own, strict=True)
        ]
        figures = estimates(pivot(rows, names, ctx.stage), names, config.seed, config.resamples)
        videos = tuple(sorted(row["video"] for row in rows))
        evaluated.append(_Evaluated(rows, figures, videos, sum(cut > 0 for cut in cuts.values())))
    return evaluated


def _describe(
    config: EvaluationConfig, source: str, prompts: PromptSet, split: Split, evaluated: _Evaluated
) -> dict[str, Any]:
    return {
        "schema": "lumina-metrics/1",
        "system_prompt": source,
        "suite": config.suite.kind,
        "split": split,
        "disjoint": prompts.disjoint,
        "prompts": len(prompts.prompts),
        **({"prompts_heldout": heldout} if (heldout := _heldout(config, prompts)) is not None else {}),
        "prompts_cut": evaluated.prompts_cut,
        "samples": config.samples,
        "confidence": config.confidence,
        "resamples": config.resamples,
        "meaning": {name: METRICS[name].meaning for name in config.measured()},
    }


def _heldout(config: EvaluationConfig, prompts: PromptSet) -> int | None:
    """How many prompts are captions of held-out clips, where prompts are captions."""
    return sum(prompt.heldout for prompt in prompts.prompts) if config.suite.kind == "captions" else None


def _intervals(found: Mapping[str, Estimate], confidence: float) -> dict[str, dict[str, float | None]]:
    return {name: interval_json(one.interval(confidence)) for name, one in found.items()}


def _evaluation(
    ctx: JobContext, name: str, stage: str, source: str, prompts: PromptSet, split: Split, evaluated: _Evaluated
) -> Evaluation:
    config: EvaluationConfig = ctx.config
    metrics = evaluation_metrics(_intervals(evaluated.estimates, config.confidence))
    params = evaluation_params(config, source, stage) | {"split": split, "prompts": len(prompts.prompts)}
    step = max(1, len(evaluated.videos) // _SHOWN_CLIPS)
    shown = evaluated.videos[::step][:_SHOWN_CLIPS]
    if (heldout := _heldout(config, prompts)) is not None:
        params["prompts_heldout"] = heldout
    return Evaluation(name, params, metrics, (*shown, SHEET_FILE, METRICS_FILE))


def _result(
    ctx: JobContext, rows: list[dict[str, Any]], evaluations: tuple[Evaluation, ...], figures: Mapping[str, float]
) -> JobResult:
    import pyarrow as pa

    config: EvaluationConfig = ctx.config
    text = ["model", "source", "system_prompt_id", "prompt_id", "prompt", "video", "frames_sha256"]
    text += ["stratum"] if "stratum" in rows[0] else []
    schema = pa.schema(
        [(name, pa.string()) for name in text]
        + [("seed", pa.int64()), ("sample", pa.int32())]
        + [(name, pa.float64()) for name in columns_of(config.measured())]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    return JobResult(
        kind="rows",
        digest=write_clip_rows(ctx.out, table),
        counts={"in": len(rows), "ok": len(rows)},
        metrics={f"eval/{name}": value for name, value in figures.items()},
        evaluations=evaluations,
        artifacts=(SHEET_FILE, METRICS_FILE),
    )


def _write_sheet(path: Path, prompts: Sequence[Prompt], folders: Mapping[str, Path]) -> None:
    """Show the first clip of some prompts; with several models, theirs stand one after the other."""
    from lumina.evaluation.contact_sheet import Sheet, write_contact_sheet
    from lumina.video import read_frames

    wanted = max(1, _SHEET_CLIPS // len(folders))
    step = max(1, len(prompts) // wanted)
    clips = [
        Sheet(
            f"{model}: {prompt.caption}" if len(folders) > 1 else prompt.caption,
            read_frames(folder / f"{prompt.prompt_id}-0.mp4"),
        )
        for prompt in prompts[::step][:wanted]
        for model, folder in folders.items()
    ]
    write_contact_sheet(path, clips, columns=len(folders) if len(folders) > 1 else 3)
