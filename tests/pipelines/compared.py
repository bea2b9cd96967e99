"""Toy jobs with what a comparison reads: rows with a status, curves, evaluations and clips."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.digest import row_digest
from curation.schema import counts
from jobs.context import Evaluation, JobContext, JobResult
from jobs.files import files_digest
from lumina.config import Config
from lumina.randomness import generator
from lumina.video import write_h264
from pipelines.engine.runner import run
from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, identifier

CLIPS = 12


class RowsConfig(Config):
    """Which clips there are and which of them are kept."""

    clips: int = CLIPS
    least: float = 0.0
    """Clips with a lower score are filtered."""


class TrainConfig(Config):
    """How fast the toy loss falls."""

    lr: float = 0.1
    steps: int = 30


class LatentsConfig(Config):
    """Which noise."""

    seed: int = 0


class NoConfig(Config):
    """Nothing to set."""

    note: str = ""


def make_rows(ctx: JobContext) -> JobResult:
    """One row a clip, with a score; a stage with an input filters the rows that it reads."""
    config: RowsConfig = ctx.config
    if ctx.inputs:
        rows = pq.read_table(ctx.inputs["clips"].path / "data").to_pylist()
        rows = [row | (_fate(ctx.stage, row["score"], config.least) if row["status"] == "ok" else {}) for row in rows]
    else:
        rows = [
            {"clip_id": f"{index:032x}", "uri": f"clip{index}.mp4", "score": index / 10, **_fate("", 0.0, 0.0)}
            for index in range(config.clips)
        ]
    return _written(ctx, pa.Table.from_pylist(rows, schema=_CLIPS))


_CLIPS = pa.schema(
    [("clip_id", "string"), ("uri", "string"), ("score", "float64")]
    + [(name, "string") for name in ("status", "reason", "reason_stage", "detail")]
)  # fmt: skip


def _fate(stage: str, score: float, least: float) -> dict[str, Any]:
    if score >= least:
        return {"status": "ok", "reason": None, "reason_stage": None, "detail": None}
    return {"status": "filtered", "reason": "low_motion", "reason_stage": stage, "detail": f"{score:g} below {least:g}"}


def _written(ctx: JobContext, table: pa.Table, **result: Any) -> JobResult:
    (ctx.out / "data").mkdir()
    pq.write_table(table, ctx.out / "data" / "part.parquet")
    found = counts(table) if "status" in table.column_names else {"in": len(table), "ok": len(table)}
    return JobResult("rows", str(row_digest(table)), counts=found, **result)


def train(ctx: JobContext) -> JobResult:
    """A loss per ten steps that falls with lr; a throughput that is never the same twice."""
    config: TrainConfig = ctx.config
    points = []
    for step in range(10, config.steps + 1, 10):
        loss = 1.0 if step == 10 else float(np.exp(-config.lr * step))
        points.append(
            {"step": step, "loss": loss, "loss/image": loss, "tokens_per_second": np.random.default_rng().random()}
        )
    (ctx.out / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    (ctx.out / "weights.txt").write_text(str(points[-1]["loss"]))
    digest = hashlib.sha256(str(points[-1]["loss"]).encode()).hexdigest()
    metrics = {"train/last_loss": points[-1]["loss"], "train/tokens_per_second": points[-1]["tokens_per_second"]}
    return JobResult("checkpoint", f"sha256:{digest}", metrics=metrics)


def evaluate(ctx: JobContext) -> JobResult:
    """Two clips whose figures follow the loss."""
    loss = float((ctx.inputs["checkpoint"].path / "weights.txt").read_text())
    (ctx.out / "videos").mkdir()
    rows = []
    for prompt in ("a-circle", "a-square"):
        frames = np.full((8, 32, 32, 3), int(200 * loss) if prompt == "a-circle" else 90, np.uint8)
        write_h264(ctx.out / "videos" / f"{prompt}.mp4", frames, fps=8)
        rows.append(
            {
                "model": "after", "source": "web", "prompt_id": prompt, "prompt": f"<b>{prompt}</b>", "sample": 0,
                "video": f"videos/{prompt}.mp4", "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
                "shapes/shape_acc": 1.0 - loss if prompt == "a-circle" else 0.5,
            }
        )  # fmt: skip
    value = float(np.mean([row["shapes/shape_acc"] for row in rows]))
    metrics = {"eval/shapes/shape_acc": value, "interval/shapes/shape_acc_low": value - 0.01,
               "interval/shapes/shape_acc_high": value + 0.01, "eval/steady": 1.0}  # fmt: skip
    source = ctx.stage.partition("@")[2] or "web"
    evaluation = Evaluation(f"{source} | after | train@1", {"system_prompt": source}, metrics)
    return _written(ctx, pa.Table.from_pylist(rows), evaluations=(evaluation,))


def encode(ctx: JobContext) -> JobResult:
    """A megabyte of noise a clip, with its hash."""
    config: LatentsConfig = ctx.config
    tensors = [generator(config.seed, "latents", index).bytes(1 << 20) for index in range(CLIPS)]
    rows = [
        {"clip_id": f"{index:032x}", "vae_latent_bytes": data, "latent_sha256": hashlib.sha256(data).hexdigest()}
        for index, data in enumerate(tensors)
    ]
    (ctx.out / "note.txt").write_text("noise")
    schema = pa.schema([("clip_id", "string"), ("vae_latent_bytes", "large_binary"), ("latent_sha256", "string")])
    return _written(ctx, pa.Table.from_pylist(rows, schema=schema))


def uncertain(ctx: JobContext) -> JobResult:
    """Another output each time."""
    (ctx.out / "text.txt").write_text(uuid.uuid4().hex)
    return JobResult("files", files_digest(ctx.out))


def echo(ctx: JobContext) -> JobResult:
    """The same output whatever the config says."""
    (ctx.out / "text.txt").write_text("the same")
    return JobResult("files", files_digest(ctx.out))


def stage(name: str, job: str, config: Config, **inputs: str) -> Stage:
    """A stage of this module."""
    return Stage(
        name, f"tests.pipelines.compared:{job}", config, inputs=inputs, execution=Execution(uses_cluster=False)
    )


def latents(seed: int) -> Stage:
    """A stage with a table of 12 MB."""
    return stage("latents", "encode", LatentsConfig(seed=seed), clips="ingest")


def chain(*more: Stage, clips: int = CLIPS, least: float = 0.0, lr: float = 0.1, steps: int = 30) -> Pipeline:
    """ingest -> select, train@1 -> evaluate_final, and more stages."""
    stages = (
        stage("ingest", "make_rows", RowsConfig(clips=clips)),
        stage("select", "make_rows", RowsConfig(least=least), clips="ingest"),
        stage("train@1", "train", TrainConfig(lr=lr, steps=steps), latents="select"),
        stage("evaluate_final", "evaluate", NoConfig(), checkpoint="train@1"),
    )
    return Pipeline("chain", (*stages, *more))


def go(pipeline: Pipeline, where: Path | Store, until: str | None = None) -> tuple[Store, RunRecord]:
    """Run it through the real runner; the store, and the record of the run."""
    store = where if isinstance(where, Store) else Store(where)
    summary = run(pipeline, store, EXECUTE, identifier=identifier(), until=until)
    assert summary.ok, summary.outcomes
    return store, store.get_run(summary.run_id)
