"""A recorded run with a curve and clips, for the trackers that are told of it later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from jobs.context import JobContext, JobResult
from lumina.evaluation.contact_sheet import write_strip
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, ToyConfig, identifier, stage


def trained(ctx: JobContext) -> JobResult:
    """Two points of a curve and a clip at the second."""
    lines = [{"step": step, "loss": 1.0 / step, "t_count/fine/00": 3.0} for step in (10, 20)]
    (ctx.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = ctx.out / "samples" / "step-00000020"
    folder.mkdir(parents=True)
    write_strip(folder / "a.png", np.full((9, 16, 16, 3), 9, np.uint8))
    row = {"source": "web", "prompt": "A red circle.", "seed": 0, "strip": "a.png"}
    figures = {"web": {"shapes/shape_acc": {"value": 0.5, "low": 0.1, "high": 0.9}}}
    (folder / "samples.json").write_text(json.dumps({"rows": [row], "figures": figures}))
    return JobResult("files", "sha256:" + "0" * 64, metrics={"train/clips": 7.0})


def recorded_run(root: Path) -> Store:
    """A store with run r1: train@1, and a stage without curves."""
    store = Store(root)
    store.prepare()
    pipeline = Pipeline("p", (Stage("train@1", f"{__name__}:trained", ToyConfig(text="t")), stage("a")))
    run(pipeline, store, EXECUTE, run_id="r1", identifier=identifier())
    return store
