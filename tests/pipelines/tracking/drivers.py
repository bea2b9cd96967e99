"""Drivers to be killed, each in a process of its own that is forked from one which has imported MLflow: that takes
seconds."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from jobs.context import JobContext, JobResult
from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.tracking.mlflow_writer import MlflowWriter
from pipelines.tracking.tracker import MlflowTracking
from tests.pipelines import toy
from tests.pipelines.tracking.observed import track


def start(driver: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run a function of this module in another process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=driver, args=arguments, daemon=True)
    process.start()
    return process


def halting(ctx: JobContext) -> JobResult:
    """Log ten steps, with the state saved after every second; attempts 1 and 2 hang at steps 3 and 6."""
    saved = ctx.work / "step"
    first = int(saved.read_text()) if saved.exists() else 0
    for step in range(first, 10):
        ctx.log_metrics({"loss": 1.0 / (step + 1), "rate": float(step)}, step)
        if step % 2:
            saved.write_text(str(step - 1))
        if step == {0: 3, 2: 6}.get(first):
            time.sleep(600)
    return toy.constant(ctx)


HALTING = Pipeline("p", (Stage("s", f"{__name__}:halting", toy.ToyConfig(), execution=Execution(uses_cluster=False)),))


def attempt(root: Path) -> None:
    """Run the halting pipeline once, tracked."""
    track(root, HALTING)


def create_database(root: Path, barrier: Any) -> None:
    """Be among the first to use a store's database."""
    barrier.wait()
    MlflowWriter(f"sqlite:///{root}/mlflow.db", Store(root))


def die(root: Path) -> None:
    """End amid a stage, with a server that never was there."""
    store = Store(root)
    store.prepare()
    tracking = MlflowTracking(store, "dead", "dead", uri="http://127.0.0.1:9")
    tracking.begin_stage(toy.stage("a"), "ab" * 32, {}, None)
    tracking.point("a", {"loss": 1.0}, 0)
    os._exit(9)
