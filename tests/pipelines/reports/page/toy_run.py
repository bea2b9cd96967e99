"""A small run with all that its page shows: curves, evaluations with real clips, a choice, a fine-tuned model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from curation.digest import row_digest
from jobs import choose as real_choose
from jobs.choose import ChooseConfig
from jobs.context import JobContext, JobResult
from lumina.config import Config
from lumina.evaluation.metrics import METRICS, difference
from lumina.evaluation.summary import estimates, interval_json, pivot
from lumina.randomness import generator
from lumina.video import write_h264
from pipelines.engine.runner import run
from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, identifier

SHAPE, COLOUR, SPEED = "shapes/shape_acc", "shapes/colour_acc", "shapes/speed_rank_corr"
_COLUMNS = (SHAPE, COLOUR, "shapes/measured_speed", "shapes/asked_speed")


class TrainConfig(Config):
    """Two scales of one network."""

    model: dict[str, Any] = Field(default={"patch_sizes": [[1, 2, 2], [2, 4, 4]]})
    tasks: tuple[dict[str, Any], ...] = (
        {"name": "fine", "media": "video", "patch": [1, 2, 2]},
        {"name": "coarse", "media": "video", "patch": [2, 4, 4]},
        {"name": "image", "media": "image", "patch": [1, 2, 2]},
    )
    note: str = ""


class EvaluateConfig(Config):
    """How often a system prompt, or each of two models, gets the shape right."""

    rates: tuple[float, ...]
    names: tuple[str, ...]
    split: str = "choose"
    prompts: int = 24
    resamples: int = 500
    seed: int = 0
    sampler: dict[str, Any] = Field(
        default={"motion": [[0.0, 6.0]], "negative_motion": [[0.0, -1.0], [0.05, "positive"]]}
    )
    frames: int = 8


def train(ctx: JobContext) -> JobResult:
    """Losses that fall, the coarse scale's the slowest; losses by t in the last reports."""
    rows = []
    for step in range(10, 210, 10):
        row: dict[str, float] = {"step": step}
        for level, task in enumerate(("fine", "coarse", "image")):
            row[f"loss/{task}"] = (1 + level) * 2.0 ** (-step / 100)
            for index in range(20):
                row[f"t_bin/{task}/{index:02d}"] = 0.1 + (0.4 if task == "coarse" and index >= 10 else 0.0)
                row[f"t_count/{task}/{index:02d}"] = 2.0
        if step % 100 == 0:
            row["val/fine"] = 0.9 * row["loss/fine"]
        rows.append(row)
    (ctx.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (ctx.out / "weights.txt").write_text(ctx.stage)
    metrics = {"train/flops_per_second": 2e9, "train/seconds_per_step": 0.5, "train/steps": 200.0}
    return JobResult("checkpoint", f"sha256:{hashlib.sha256(ctx.stage.encode()).hexdigest()}", metrics=metrics)


def evaluate(ctx: JobContext) -> JobResult:
    """Clips of prompts in three speeds; the same draw decides for all groups, so that they are paired."""
    config: EvaluateConfig = ctx.config
    rows = [row for name, rate in zip(config.names, config.rates, strict=True) for row in _clips(ctx, name, rate)]
    metrics = [SHAPE, COLOUR, SPEED]
    found = {}
    for name in config.names:
        one = pivot([row for row in rows if row["model"] == name], metrics, ctx.stage)
        found[name] = estimates(one, metrics, config.seed, config.resamples)
    intervals = {n: {k: interval_json(e.interval(0.95)) for k, e in one.items()} for n, one in found.items()}
    content: dict[str, Any] = {
        "system_prompt": config.names[0],
        "split": config.split, "disjoint": True, "prompts": config.prompts, "samples": 1, "confidence": 0.95,
        "meaning": {name: METRICS[name].meaning for name in metrics},
    }  # fmt: skip
    if config.names == ("before", "after"):
        changes = {k: difference(found["before"][k], found["after"][k]) for k in metrics}
        content |= intervals | {
            "checkpoints": {model: ctx.inputs[model].stage for model in ("before", "after")},
            "difference": {k: interval_json(one.interval(0.95)) for k, one in changes.items()},
        }
    else:
        content["metrics"] = intervals[config.names[0]]
    (ctx.out / "metrics.json").write_text(json.dumps(content))
    table = pa.Table.from_pylist(rows)
    (ctx.out / "data").mkdir()
    pq.write_table(table, ctx.out / "data" / "clips.parquet")
    return JobResult("rows", str(row_digest(table)), counts={"in": len(rows), "ok": len(rows)})


def _clips(ctx: JobContext, name: str, rate: float) -> list[dict[str, Any]]:
    config: EvaluateConfig = ctx.config
    draw = generator(0, "page", config.split).random((config.prompts, 3))
    rows = []
    for index in range(config.prompts):
        prompt = f"{config.split}-{index:02d}"
        video = f"videos/{name}/{prompt}.mp4"
        (ctx.out / "videos" / name).mkdir(parents=True, exist_ok=True)
        shown = np.full((config.frames, 32, 32, 3), 60, np.uint8)
        for number, frame in enumerate(shown):
            frame[8:24, number % 24 : number % 24 + 8] = (220, 40 + int(100 * rate), 40)
        write_h264(ctx.out / video, shown, fps=8)
        asked = (np.nan, 0.1125, 0.215)[index % 3]
        rows.append(
            {
                "model": name, "source": name, "prompt_id": prompt, "prompt": f"A <red> square, number {index}.",
                "video": video, "frames_sha256": hashlib.sha256(shown.tobytes()).hexdigest(), "seed": 0, "sample": 0,
                SHAPE: float(draw[index, 0] < rate), COLOUR: 1.0, "shapes/asked_speed": asked,
                "shapes/measured_speed": float(np.nan_to_num(asked) + 0.02 * draw[index, 2]),
            }
        )  # fmt: skip
    return rows


def choose(ctx: JobContext) -> JobResult:
    """The real choice."""
    return real_choose.run(ctx)


def fail(ctx: JobContext) -> JobResult:
    """Fail."""
    raise RuntimeError("the disk <b>melted</b>")


def stage(name: str, job: str, config: Config, **inputs: str) -> Stage:
    """A stage of this module; `__` in a keyword stands for `@`."""
    named = {key.replace("__", "@"): upstream for key, upstream in inputs.items()}
    return Stage(name, f"{__name__}:{job}", config, inputs=named, execution=Execution(uses_cluster=False))


def pipeline(*rates: tuple[str, float], frames: int = 8, end: str = "evaluate") -> Pipeline:
    """train@1 -> evaluate@<source> -> choose -> finetune -> evaluate_final; `end` is the last one's job."""
    rule = ChooseConfig(score={SHAPE: 1.0}, resamples=500)
    stages: Sequence[Stage] = (
        stage("train@1", "train", TrainConfig()),
        *(
            stage(
                f"evaluate@{source}",
                "evaluate",
                EvaluateConfig(rates=(rate,), names=(source,), frames=frames),
                checkpoint="train@1",
            )
            for source, rate in rates
        ),
        stage("choose", "choose", rule, **{f"evaluate__{source}": f"evaluate@{source}" for source, _ in rates}),
        stage("finetune", "train", TrainConfig(note="finetune"), init="train@1", selection="choose"),
        stage(
            "evaluate_final",
            end,
            EvaluateConfig(rates=(0.2, 0.95), names=("before", "after"), split="report", frames=frames),
            before="train@1",
            after="finetune",
        ),
    )
    return Pipeline("toy", tuple(stages))


def go(made: Pipeline, where: Path | Store, until: str | None = None) -> tuple[Store, RunRecord]:
    """Run it through the real runner; the store, and the record of the run."""
    store = where if isinstance(where, Store) else Store(where)
    summary = run(made, store, EXECUTE, identifier=identifier(), until=until, name="toy")
    return store, store.get_run(summary.run_id)
