"""A toy pipeline that leaves something of every kind, and what MLflow has of its runs, without ids and clocks."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from jobs.context import Evaluation, JobContext, JobResult
from lumina.system_prompts import SystemPrompt, write_system_prompts
from pipelines.engine.events import RunSummary
from pipelines.engine.runner import new_run_id, run
from pipelines.engine.stage import Execution, Pipeline, RegisteredModel, Stage
from pipelines.engine.store.store import Store
from pipelines.tracking.links import Links
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES
from pipelines.tracking.tracker import MlflowTracking
from tests.pipelines.toy import EXECUTE, ToyConfig, identifier

_HERE = "tests.pipelines.tracking.observed"
CONFIG = {"a": {"b": 1e-4, "c": ["x"]}}
FINAL = RegisteredModel("final", "A toy.", "toy {checkpoint}")
WEB = "You generate web videos. <Prompt Start> "


class TrainToyConfig(ToyConfig):
    """A toy stage with steps."""

    steps: int = 5


def tag(ctx: JobContext) -> JobResult:
    """Write two system prompts, one of them the config's text."""
    prompts = [SystemPrompt("web", ctx.config.text), SystemPrompt("clean", "You generate. <Prompt Start> ")]
    write_system_prompts(ctx.out / "system_prompts.json", prompts)
    return JobResult("files", _digest(ctx.config.text))


def train(ctx: JobContext) -> JobResult:
    """Log a point per step; with a `sleep`, wait in the middle for a file beside the store's stages."""
    for step in range(ctx.config.steps):
        ctx.log_metrics({"loss": 1.0 / (step + 1), "rate": float(step)}, step)
        if ctx.config.sleep and step == ctx.config.steps // 2:
            gate, deadline = ctx.work.parents[3] / f"{ctx.stage}.go", time.monotonic() + 240
            while not gate.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
    (ctx.out / "weights").write_text(ctx.config.text)
    (ctx.out / "curve.txt").write_text("curve")
    return JobResult("checkpoint", _digest(ctx.config.text), metrics={"train/clips/web": 7.0}, artifacts=("curve.txt",))


def evaluate(ctx: JobContext) -> JobResult:
    """One evaluation of the checkpoint of the stage `train@2` under the prompt of `web`."""
    (ctx.out / "metrics.json").write_text("{}")
    params: dict[str, str | int | float] = {"system_prompt": "web", "train_stage": "train@2", "seed": 1}
    found = Evaluation("web | train@2", params, {"color_accuracy": 0.5}, ("metrics.json",))
    return JobResult("rows", _digest("evaluated"), counts={"in": 1, "ok": 1}, evaluations=(found,))


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def toy_training(prompt: str = WEB, weights: str = "w", gated: bool = False) -> Pipeline:
    """tag, train@1 -> train@2 (registered) -> evaluate; `gated` training waits for files, see `train`."""
    sleep = 1.0 if gated else 0.0

    def train_stage(name: str, inputs: dict[str, str], model: RegisteredModel | None) -> Stage:
        config = TrainToyConfig(text=f"{weights} {name}", sleep=sleep)
        return Stage(
            name, f"{_HERE}:train", config, inputs=inputs, execution=Execution(uses_cluster=False, model=model)
        )

    return Pipeline(
        "p",
        (
            Stage("tag", f"{_HERE}:tag", ToyConfig(text=prompt),
                  execution=Execution(uses_cluster=False, system_prompts="system_prompts.json")),
            train_stage("train@1", {"tag": "tag"}, None),
            train_stage("train@2", {"init": "train@1"}, FINAL),
            Stage("evaluate", f"{_HERE}:evaluate", ToyConfig(), inputs={"checkpoint": "train@2", "tag": "tag"},
                  execution=Execution(uses_cluster=False)),
        ),
    )  # fmt: skip


def track(
    root: Path, pipeline: Pipeline, uri: str | None = None, notes: list[str] | None = None, run_id: str | None = None
) -> tuple[RunSummary, Links]:
    """Run a pipeline once, tracked."""
    store, run_id = Store(root), run_id or new_run_id()
    store.prepare()
    tracking = MlflowTracking(store, run_id, "toy", CONFIG, uri, (notes if notes is not None else []).append)
    summary = run(pipeline, store, EXECUTE, run_id=run_id, tracking=tracking, identifier=identifier())
    return summary, tracking.close("FINISHED" if summary.ok else "FAILED")


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    """All runs of an experiment by name, the oldest first."""
    found = client.get_experiment_by_name(experiment)
    order = ["attributes.start_time ASC"]
    return [] if found is None else list(client.search_runs([found.experiment_id], order_by=order))


def curve(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float]]:
    """Step and value of every point that a run has."""
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def observed(uri: str) -> dict[str, Any]:
    """All that MLflow has, in an order that does not depend on its ids."""
    client = MlflowClient(uri, uri)
    found: dict[str, Any] = {"runs": [], "models": [], "prompts": []}
    for experiment in (PIPELINES, EVALS):
        for one in runs(client, experiment):
            uses = [(use.dataset.name, sorted((t.key, t.value) for t in use.tags)) for use in one.inputs.dataset_inputs]
            found["runs"].append(
                {
                    "name": one.info.run_name,
                    "status": one.info.status,
                    "params": one.data.params,
                    "points": {
                        name: curve(client, one, name) for name in sorted(one.data.metrics) if name != "seconds"
                    },
                    "tags": sorted(one.data.tags),
                    "datasets": sorted(uses),
                    "artifacts": [file.path for file in client.list_artifacts(one.info.run_id)],
                }
            )
    found["runs"].sort(key=lambda entry: entry["name"])
    for version in client.search_model_versions():
        found["models"].append((version.name, version.version, sorted(version.aliases), dict(version.tags)))
    for prompt in client.search_prompts():
        texts = [(one.version, one.template) for one in client.search_prompt_versions(prompt.name)]
        found["prompts"].append((prompt.name, texts))
    return found
