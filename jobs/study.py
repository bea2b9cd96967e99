"""Stages `study@<name>`: a checkpoint sampled by named settings, judged on the same prompts from the same noises.

`lumina study` makes the same of an exported checkpoint, without a run. Rows: one per clip, with its arm and
`frames_sha256`, the identity of its pixels. What a clock measured stands in a file of its own, and in no digest.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from jobs.context import Evaluation, Job, JobContext, JobResult
from jobs.evaluate import EvaluationConfig, read_prompts
from jobs.evaluation_parts import (
    clip_job,
    evaluation_metrics,
    evaluation_params,
    system_prompt_of,
    write_clip_rows,
    write_json,
)
from lumina.evaluation.prompts import Prompt
from lumina.evaluation.selection import Selection
from lumina.evaluation.study import SCHEMA, SCORE, STUDY_FILE, TIMES_FILE, Statistics, analyse, arm_cost, meanings
from lumina.evaluation.study_arms import check_score
from lumina.evaluation.summary import columns_of
from lumina.flow_matching.schedules import SamplerConfig
from lumina.sizes import SPATIAL_COMPRESSION, generated_latents
from lumina.vbench.suite_config import VBenchSuite

if TYPE_CHECKING:
    from jobs.clips import Batch, ClipJob
    from jobs.runtime import RuntimeConfig
    from lumina.models.config import NextDiTConfig

TEXT_TOKENS = 256
"""Of a prompt, for the count of operations: as `lumina cost` counts."""


class StudyStageConfig(EvaluationConfig):
    """Config of `study@<name>`: an evaluation, and the arms in place of its sampler."""

    study: str = Field(min_length=1)
    """Its name."""
    arms: dict[str, SamplerConfig] = Field(min_length=1)
    """Name to sampler."""
    reference: str
    """Arm that every other one is compared with."""
    score: dict[str, float] = Field(default_factory=dict)
    """Metric to weight of the figure `score`; empty for none."""

    @model_validator(mode="after")
    def _studied(self) -> Self:
        if isinstance(self.suite, VBenchSuite):
            raise ValueError("a study has prompts of kind shapes, captions or list: give it a suite of its own")
        if self.reference not in self.arms:
            raise ValueError(f"reference is {self.reference!r}; the arms are {', '.join(self.arms)}")
        latent = (self.num_frames // 4, self.height // 8, self.width // 8)
        for arm, sampler in self.arms.items():
            for _, patch in sampler.patches:
                if any(size % part for size, part in zip(latent, patch, strict=True)):
                    raise ValueError(
                        f"arm {arm!r}: {self.num_frames} frames of {self.width}x{self.height} are latents of (frames, "
                        f"rows, columns) {latent}, which patch size {patch} does not divide"
                    )
        check_score(self.score)
        if absent := sorted(set(self.score) - set(self.measured())):
            raise ValueError(
                f"score names {', '.join(absent)}, which is not measured: {', '.join(self.measured())} are"
            )
        return self


@dataclass(frozen=True)
class StudyWork:
    """What is sampled, by which network."""

    config: StudyStageConfig
    prompts: Sequence[Prompt]
    job: ClipJob
    """Of an arm, but for its sampler."""
    source: str
    system_prompt_id: str


@dataclass(frozen=True)
class Studied:
    """All clips of a study."""

    rows: list[dict[str, Any]]
    """By arm, prompt and sample; `file` is where the clip lies."""
    seconds: dict[str, float]
    """By arm: of a clip, sampled and decoded; the median over batches."""


Place = Callable[[str, SamplerConfig], tuple[Path, str]]
"""Folder of an arm's batches, and the key of all that its clips depend on."""


def study_batches(work: StudyWork, place: Place) -> list[Batch]:
    """The clips of all arms, in the order of arms, prompts and samples."""
    from jobs.clips import ClipRequest, batches
    from lumina.evaluation.noise import evaluation_noise

    config = work.config
    requests = [
        ClipRequest(
            prompt.caption,
            evaluation_noise(config.seed, prompt.prompt_id, sample),
            f"{prompt.prompt_id}-{sample}.mp4",
            truth=prompt.truth,
        )
        for prompt, sample in _clips(work)
    ]
    found: list[Batch] = []
    for arm, sampler in config.arms.items():
        job = replace(work.job, sampler=sampler, timed=True)
        found += batches(job, requests, config.batch_size, *place(arm, sampler))
    return found


def _clips(work: StudyWork) -> list[tuple[Prompt, int]]:
    return [(prompt, sample) for prompt in work.prompts for sample in range(work.config.samples)]


def make_study(
    work: StudyWork,
    place: Place,
    runtime: RuntimeConfig,
    progress: Callable[[int, int], None],
    workers: int | None = None,
) -> Studied:
    """Make the clips of all arms and measure them; batches that are there are taken as they are.

    Args:
        work: what is sampled.
        place: see `Place`.
        runtime: see `jobs.clips.make_clips`, as for the others.
        progress: told of (finished clips, clips in all).
        workers: at most.
    """
    from jobs.clips import make_clips

    config, made, todo = work.config, _clips(work), study_batches(work, place)
    measured = make_clips(todo, runtime, progress, workers=workers)
    folders = [batch.folder for batch in todo for _ in batch.requests]
    columns = columns_of(config.measured())
    rows, seconds = [], {}
    for number, arm in enumerate(config.arms):
        start = number * len(made)
        own = measured[start : start + len(made)]
        seconds[arm] = median(row["seconds"] for row in own)
        for (prompt, sample), row, folder in zip(made, own, folders[start:], strict=False):
            rows.append(
                {
                    "arm": arm,
                    "source": work.source,
                    "system_prompt_id": work.system_prompt_id,
                    "prompt_id": prompt.prompt_id,
                    "prompt": prompt.caption,
                    "seed": config.seed,
                    "sample": sample,
                    "file": str(Path(folder) / row["file"]),
                    "frames_sha256": row["frames_sha256"],
                    **({"stratum": prompt.stratum} if prompt.stratum is not None else {}),
                    **{name: row[name] for name in columns},
                }
            )
    return Studied(rows, seconds)


def study_content(work: StudyWork, rows: Sequence[Mapping[str, Any]], network: NextDiTConfig) -> dict[str, Any]:
    """What `study.json` holds: nothing of it was measured by a clock."""
    config = work.config
    size = (
        generated_latents(config.num_frames),
        config.height // SPATIAL_COMPRESSION,
        config.width // SPATIAL_COMPRESSION,
    )
    statistics = Statistics(config.seed, config.resamples, config.confidence)
    figures = analyse(rows, config.measured(), config.score, config.reference, statistics)
    arms = {
        arm: {
            "sampler": sampler.model_dump(mode="json"),
            "cost": arm_cost(network, size, sampler, config.sampler, TEXT_TOKENS).as_dict(),
            **figures[arm],
        }
        for arm, sampler in config.arms.items()
    }
    return {
        "schema": SCHEMA,
        "study": config.study,
        "system_prompt": work.source,
        "suite": config.suite.kind,
        "prompts": len(work.prompts),
        "samples": config.samples,
        "size": [config.num_frames, config.height, config.width],
        "text_tokens": TEXT_TOKENS,
        "confidence": config.confidence,
        "resamples": config.resamples,
        "reference": config.reference,
        "order": list(config.arms),
        "figures": [*([SCORE] if config.score else []), *config.measured()],
        "score": dict(config.score),
        "meaning": meanings(config.measured(), config.score),
        "arms": arms,
    }


def write_study(folder: Path, content: Mapping[str, Any], seconds: Mapping[str, float], device: str) -> None:
    """Write `study.json`, and beside it what the clock said."""
    write_json(folder / STUDY_FILE, content)
    write_json(folder / TIMES_FILE, {"device": device, "seconds_per_clip": dict(seconds)})


@partial(Job, weights=("vae", "text_encoder"), depends=("torch", "diffusers", "transformers"), tier="metric")
def run(ctx: JobContext) -> JobResult:
    """Study input `checkpoint` under the chosen system prompt, on the prompts that the choice did not see.

    Config: StudyStageConfig. Inputs: checkpoint, selection (selection.json), tag, and for the captions suite select.
    Writes data/, videos/, study.json and times.json.

    Raises:
        ValueError: the chosen source has no system prompt, or a metric applies to no clip.
    """
    from lumina.checkpoints import load_config

    config: StudyStageConfig = ctx.config
    chosen = Selection.load(ctx.inputs["selection"].path).chosen
    prompts, system = read_prompts(ctx, "report").prompts, system_prompt_of(ctx, chosen)
    job = clip_job(ctx, "checkpoint", system.text, config.measured())
    work = StudyWork(config, prompts, job, chosen, system.system_prompt_id)
    names = folder_names(config.arms)
    made = make_study(
        work,
        lambda arm, sampler: (ctx.work / names[arm], ctx.fingerprint),
        ctx.runtime,
        lambda done, total: ctx.progress(done, total, "clips"),
    )
    for row in made.rows:
        clip = Path(row.pop("file"))
        row["video"] = f"videos/{names[row['arm']]}/{clip.name}"
        (ctx.out / row["video"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, ctx.out / row["video"])
    content = study_content(work, made.rows, load_config(Path(job.checkpoint)))
    write_study(ctx.out, content, made.seconds, ctx.runtime.device)
    return _result(ctx, made, content)


def folder_names(arms: Mapping[str, SamplerConfig]) -> dict[str, str]:
    """A name for the folder of each arm: arms have any text, as `8/2-8`."""
    return {arm: f"{n:02d}-{re.sub(r'[^A-Za-z0-9_.]+', '-', arm)[:40]}" for n, arm in enumerate(arms)}


def _result(ctx: JobContext, made: Studied, content: Mapping[str, Any]) -> JobResult:
    import pyarrow as pa

    config: StudyStageConfig = ctx.config
    texts = ["arm", "source", "system_prompt_id", "prompt_id", "prompt", "video", "frames_sha256"]
    texts += ["stratum"] if "stratum" in made.rows[0] else []
    schema = pa.schema(
        [(name, pa.string()) for name in texts]
        + [("seed", pa.int64()), ("sample", pa.int32())]
        + [(name, pa.float64()) for name in columns_of(config.measured())]
    )
    table = pa.Table.from_pylist(made.rows, schema=schema)
    # Trackers take few characters in the name of a metric.
    names = folder_names(config.arms)
    figures = {
        f"eval/{names[arm]}/{name}": one["value"]
        for arm, found in content["arms"].items()
        for name, one in found["metrics"].items()
    }
    return JobResult(
        kind="rows",
        digest=write_clip_rows(ctx.out, table),
        counts={"in": len(made.rows), "ok": len(made.rows)},
        metrics=figures,
        evaluations=tuple(_evaluation(ctx, arm, content, made.seconds[arm]) for arm in config.arms),
        artifacts=(STUDY_FILE, TIMES_FILE),
    )


def _evaluation(ctx: JobContext, arm: str, content: Mapping[str, Any], seconds: float) -> Evaluation:
    """An arm as a run of MLflow, with its cost and its time."""
    config: StudyStageConfig = ctx.config
    found = content["arms"][arm]
    stage = ctx.inputs["checkpoint"].stage
    params: dict[str, str | int | float] = evaluation_params(config, content["system_prompt"], stage)
    params |= {"study": config.study, "arm": arm, "prompts": content["prompts"]}
    params |= {f"sampler.{name}": str(value) for name, value in found["sampler"].items()}
    metrics = evaluation_metrics(found["metrics"])
    metrics |= {"cost/relative": found["cost"]["relative"], "cost/seconds_per_clip": seconds}
    metrics |= {
        f"difference/{name}": one["value"]
        for name, one in found.get("difference", {}).items()
        if one["value"] is not None
    }
    return Evaluation(f"{config.study}: {arm} | {stage}", params, metrics, (STUDY_FILE,))
