"""Stages `evaluate@<source>` and `evaluate_final` of suite vbench: generate VBench's clips, judge them, give intervals.

Clips are judged as the files have them, after H.264, since that is what the official code reads. Every prompt is used
for the choice and for the report, for figures of half of them would be none of VBench's. Scores are logged in the
stage's scratch as they come, so nothing is scored twice.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.context import Evaluation, Job, JobContext, JobResult
from jobs.evaluate import EvaluateConfig, EvaluateFinalConfig, EvaluationConfig
from jobs.evaluation_parts import (
    clip_job,
    evaluation_metrics,
    evaluation_params,
    system_prompt_of,
    write_clip_rows,
    write_json,
)
from lumina.evaluation.metrics import Estimate, difference
from lumina.evaluation.selection import METRICS_FILE, Selection
from lumina.evaluation.summary import interval_json
from lumina.files import sha256_file
from lumina.prompt_length import cut_message
from lumina.vbench.clip_rows import COUNT, clip_columns, estimate_of
from lumina.vbench.clip_score import ClipScore
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.report_files import PAGE_FILE, REPORT_FILE, Report, Statistics, make_report
from lumina.vbench.suite_config import VBenchSuite, VBenchWeights, figure_name, filters_clips

if TYPE_CHECKING:
    from jobs.vbench import ClipFile
    from lumina.vbench.prompts import VBenchPrompt
    from lumina.vbench.summary import DimensionResult

WEIGHTS = "vbench."
"""What stands before the names of the judges' weights."""
PROMPTS, AUGMENTED, PYTHON = "vbench_prompts", "vbench_augmented", "vbench_python"
"""Names of the stage's files."""
_SHOWN_CLIPS = 4
log = logging.getLogger(__name__)
_DEPENDS = ("torch", "diffusers", "transformers", "av", "pillow")


@dataclass(frozen=True)
class _Model:
    """A checkpoint to evaluate."""

    name: str
    """In the rows."""
    key: str
    """Of the job's input."""
    folder: str
    """Of its report and clips, below the job's `out`; empty for itself."""

    @property
    def videos(self) -> str:
        """Folder of its clips."""
        return f"videos/{self.folder}" if self.folder else "videos"

    def file(self, name: str) -> str:
        """A file of its report."""
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True, eq=False)
class _Evaluated:
    """One checkpoint under one system prompt."""

    model: _Model
    rows: list[dict[str, Any]]
    report: Report
    estimates: Mapping[str, Estimate]
    prompts_cut: int


@dataclass(frozen=True)
class _Asked:
    """What is generated and judged, with the files and networks of this machine."""

    suite: VBenchSuite
    prompts: tuple[VBenchPrompt, ...]
    prompts_file: Path
    clips: tuple[tuple[VBenchPrompt, int], ...]
    """Prompts and indices."""

    @classmethod
    def of(cls, ctx: JobContext) -> _Asked:
        """Read the prompts."""
        from lumina.vbench.prompts import read_prompts
        from lumina.vbench.suite import clips_of

        config: EvaluationConfig = ctx.config
        if not isinstance(config.suite, VBenchSuite):
            raise AssertionError("jobs.evaluate evaluates it")
        weights = {name.removeprefix(WEIGHTS): place for name, place in ctx.weights.items() if name.startswith(WEIGHTS)}
        given = {"weights": VBenchWeights(**weights), "python": ctx.files.get(PYTHON)}
        suite = config.suite.model_copy(update=given)
        prompts = read_prompts(ctx.files[PROMPTS], suite.judged())
        clips = [
            (one, index) for one in prompts for index in range(clips_of(one, config.samples, filters_clips(suite)))
        ]
        return cls(suite, prompts, ctx.files[PROMPTS], tuple(clips))


@partial(Job, weights=("vae", "text_encoder"), depends=_DEPENDS, tier="metric")
def run(ctx: JobContext) -> JobResult:
    """Evaluate input `checkpoint` under the system prompt of `config.source` (config: EvaluateConfig).

    Inputs: checkpoint, tag (system_prompts.json); files: vbench_prompts, and where wanted vbench_augmented and
    vbench_python. Writes data/, videos/, metrics.json, vbench.json and vbench.html.

    Raises:
        ValueError: the source has no system prompt.
        OfficialError: the official code failed; what was scored before is kept, and a rerun goes on.
    """
    config: EvaluateConfig = ctx.config
    label = ctx.inputs["checkpoint"].stage
    asked = _Asked.of(ctx)
    [found] = _evaluate(ctx, config.source, asked, [_Model(label, "checkpoint", "")])
    summary = _describe(config, config.source, asked, found) | {
        "checkpoint": label,
        "metrics": _intervals(found.estimates, config.confidence),
    }
    write_json(ctx.out / METRICS_FILE, summary)
    evaluation = _evaluation(config, f"{config.source} | {label}", label, config.source, asked, found)
    figures = {name: one.value for name, one in found.estimates.items()}
    return _result(ctx, [found], (evaluation,), figures)


@partial(Job, weights=("vae", "text_encoder"), depends=_DEPENDS, tier="metric")
def run_final(ctx: JobContext) -> JobResult:
    """Evaluate inputs `before` and `after` on the prompts of the choice (config: EvaluateFinalConfig).

    Inputs and files as of `run`, and selection (selection.json). Writes data/, videos/, metrics.json with `before`,
    `after` and their paired `difference`, and a report of each in a folder of its name.

    Raises:
        ValueError: the chosen source has no system prompt.
        OfficialError: as `run`.
    """
    config: EvaluateFinalConfig = ctx.config
    chosen = Selection.load(ctx.inputs["selection"].path).chosen
    asked = _Asked.of(ctx)
    before, after = _evaluate(ctx, chosen, asked, [_Model(name, name, name) for name in ("before", "after")])
    both = [name for name in before.estimates if name in after.estimates]
    differences = {name: difference(before.estimates[name], after.estimates[name]) for name in both}
    summary = _describe(config, chosen, asked, after) | {
        "checkpoints": {one.model.name: ctx.inputs[one.model.name].stage for one in (before, after)},
        "before": _intervals(before.estimates, config.confidence),
        "after": _intervals(after.estimates, config.confidence),
        "difference": _intervals(differences, config.confidence),
    }
    write_json(ctx.out / METRICS_FILE, summary)
    stages = {one.model.name: ctx.inputs[one.model.name].stage for one in (before, after)}
    evaluations = tuple(
        _evaluation(config, f"{chosen} | {name} | {stages[name]}", stages[name], chosen, asked, one)
        for name, one in (("before", before), ("after", after))
    )
    figures = {f"{one.model.name}/{n}": e.value for one in (before, after) for n, e in one.estimates.items()}
    figures |= {f"difference/{name}": one.value for name, one in differences.items()}
    return _result(ctx, [before, after], evaluations, figures)


def _evaluate(ctx: JobContext, source: str, asked: _Asked, models: Sequence[_Model]) -> list[_Evaluated]:
    """Generate all clips of the models under one system prompt, then judge them."""
    from jobs.clips import ClipRequest, batches, make_clips
    from lumina.evaluation.noise import sampled_noise
    from lumina.vbench.augmented import read_augmented
    from lumina.vbench.clip_files import clip_name
    from lumina.vbench.suite import clip_seed

    config: EvaluationConfig = ctx.config
    system_prompt = system_prompt_of(ctx, source)
    told = read_augmented(ctx.files[AUGMENTED], asked.prompts) if AUGMENTED in ctx.files else {}
    requests = [
        ClipRequest(
            told.get(prompt.text, prompt.text),
            # As `lumina vbench` makes them; not keyed by system prompt or checkpoint, which are compared.
            sampled_noise(clip_seed(config.seed, prompt.text, index)),
            clip_name(prompt.text, index),
        )
        for prompt, index in asked.clips
    ]
    work = []
    for model in models:
        job = clip_job(ctx, model.key, system_prompt.text, ())
        work += batches(job, requests, config.batch_size, ctx.work / model.name, ctx.fingerprint)
    made = make_clips(work, ctx.runtime, lambda done, total: ctx.progress(done, total, "clips"))
    evaluated = []
    for number, model in enumerate(models):
        folder = ctx.out / model.videos
        folder.mkdir(parents=True)
        for clip in sorted((ctx.work / model.name).glob("batch-*/*.mp4")):
            shutil.copyfile(clip, folder / clip.name)
        own = made[number * len(requests) : (number + 1) * len(requests)]
        cuts = {prompt.text: row["tokens_cut"] for (prompt, _), row in zip(asked.clips, own, strict=True)}
        if not number and (message := cut_message(list(cuts.values()), "shorten them")):
            log.warning("%s: %s", ctx.stage, message)
        rows = [
            {
                "model": model.name,
                "source": source,
                "system_prompt_id": system_prompt.system_prompt_id,
                "prompt_id": prompt.text,
                "prompt": prompt.text,
                "text": request.prompt,
                "seed": config.seed,
                "sample": index,
                "video": f"{model.videos}/{row['file']}",
                "frames_sha256": row["frames_sha256"],
                "stratum": prompt.stratum,
            }
            for (prompt, index), request, row in zip(asked.clips, requests, own, strict=True)
        ]
        evaluated.append(_judged(ctx, asked, model, rows, sum(cut > 0 for cut in cuts.values())))
    return evaluated


def _judged(ctx: JobContext, asked: _Asked, model: _Model, rows: list[dict[str, Any]], prompts_cut: int) -> _Evaluated:
    """Score the clips of one model, add its columns to the rows, and write its report."""
    from jobs.vbench import ClipFile, score_clips
    from lumina.vbench.official import OfficialError
    from lumina.vbench.page import Subject
    from lumina.vbench.suite import expected_clips, judged_by, strata_of
    from lumina.vbench.summary import kept_clips

    config: EvaluationConfig = ctx.config
    suite, folder = asked.suite, ctx.out / model.videos
    files: list[ClipFile] = []
    for (prompt, index), row in zip(asked.clips, rows, strict=True):
        path = ctx.out / row["video"]
        files.append(
            ClipFile(
                path,
                path.name,
                sha256_file(path),
                prompt,
                judged_by(prompt, index, config.samples, filters_clips(suite)),
            )
        )
    scores = score_clips(
        files,
        suite.judged(),
        suite,
        asked.prompts_file,
        ctx.work / model.name,
        ctx.runtime,
        ctx.progress,
        expected_clips(asked.prompts, suite.judged(), config.samples, filters_clips(suite)),
    )
    if broken := [found.broken for found in scores.values() if found.broken is not None]:
        # All else is in the log: another attempt goes on from there.
        raise OfficialError(broken[0])
    for name, found in scores.items():
        kept = {one.clip for one in kept_clips(name, found, config.samples)}
        verdicts = {one.clip: one.verdict.score for one in found.scored}
        for row, file in zip(rows, files, strict=True):
            score = verdicts.get(file.name)
            if score is not None and file.name not in kept:
                score = ClipScore(0.0, 0)
            row |= clip_columns(figure_name(found.by, name), score)
    subject = Subject(f"{rows[0]['source']}, {model.name}", len(rows), config.samples, asked.prompts_file.name, folder)
    statistics = Statistics(config.confidence, config.resamples, config.seed)
    report = make_report(subject, scores, strata_of(asked.prompts, ()), statistics)
    report.write(ctx.out / model.folder)
    for gap in (one for one in report.summary.dimensions if one.gap):
        log.warning("%s: no figure of %s: %s", ctx.stage, gap.name, gap.gap)
    named = report.summary.names()
    estimates = {named[name]: estimate_of(figure) for name, figure in report.summary.figures.items()}
    return _Evaluated(model, rows, report, estimates, prompts_cut)


def _describe(config: EvaluationConfig, source: str, asked: _Asked, found: _Evaluated) -> dict[str, Any]:
    summary = found.report.summary
    return {
        "schema": "lumina-metrics/1",
        "system_prompt": source,
        "suite": "vbench",
        "split": "all",
        "disjoint": False,
        "prompts": len(asked.prompts),
        "prompts_cut": found.prompts_cut,
        "samples": config.samples,
        "clips": len(asked.clips),
        "confidence": config.confidence,
        "resamples": config.resamples,
        "meaning": {one.metric: _meaning(one) for one in summary.dimensions if one.gap is None},
        "dimensions": found.report.to_json()["dimensions"],
        "gaps": summary.gaps(),
    }


def _meaning(one: DimensionResult) -> str:
    who = "by the official code" if one.by == "official" else "computed here"
    note = f"; {one.note}" if one.note else ""
    return f"{DIMENSIONS[one.name].title}, {who}: {one.clips:,} clips of {one.prompts:,} prompts{note}"


def _intervals(found: Mapping[str, Estimate], confidence: float) -> dict[str, dict[str, float | None]]:
    return {name: interval_json(one.interval(confidence)) for name, one in found.items()}


def _evaluation(
    config: EvaluationConfig, name: str, stage: str, source: str, asked: _Asked, found: _Evaluated
) -> Evaluation:
    params = evaluation_params(config, source, stage) | {"split": "all", "prompts": len(asked.prompts)}
    for one in found.report.summary.dimensions:
        params |= {f"vbench.{one.name}.by": one.by, f"vbench.{one.name}.clips": one.clips}
        params |= {f"vbench.{'weights' if one.by == 'native' else 'official'}.{n}": d for n, d in one.weights.items()}
        params |= {f"vbench.{one.name}.gap": one.gap} if one.gap else {}
    videos = sorted(row["video"] for row in found.rows)
    shown = videos[:: max(1, len(videos) // _SHOWN_CLIPS)][:_SHOWN_CLIPS]
    metrics = evaluation_metrics(_intervals(found.estimates, config.confidence))
    reports = (found.model.file(PAGE_FILE), found.model.file(REPORT_FILE))
    return Evaluation(name, params, metrics, (*shown, *reports, METRICS_FILE))


def _result(
    ctx: JobContext, found: Sequence[_Evaluated], evaluations: tuple[Evaluation, ...], figures: Mapping[str, float]
) -> JobResult:
    import pyarrow as pa

    rows = [row for one in found for row in one.rows]
    numbers = {"seed": pa.int64(), "sample": pa.int32()}
    schema = pa.schema([(name, numbers.get(name, _kind(name))) for name in rows[0]])
    table = pa.Table.from_pylist(rows, schema=schema)
    return JobResult(
        kind="rows",
        digest=write_clip_rows(ctx.out, table),
        counts={"in": len(rows), "ok": len(rows)},
        metrics={f"eval/{name}": value for name, value in figures.items()},
        evaluations=evaluations,
        artifacts=(*(one.model.file(PAGE_FILE) for one in found), METRICS_FILE),
    )


def _kind(column: str) -> Any:
    """Type of a column of texts, totals or counts."""
    import pyarrow as pa

    if "/" not in column:
        return pa.string()
    return pa.int32() if column.endswith(COUNT) else pa.float64()
