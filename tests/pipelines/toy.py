"""Toy jobs and pipelines: small enough to run a hundred times."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from jobs.context import Evaluation, JobContext, JobResult
from jobs.runtime import RuntimeConfig
from lumina.config import Config
from pipelines.engine.code_closure import CodeIndex
from pipelines.engine.fingerprint import DigestCache, Identifier
from pipelines.engine.stage import Execution, Pipeline, Stage
from pipelines.execution import JobExecutor

TESTS = Path(__file__).resolve().parents[1]
EXECUTE = JobExecutor(RuntimeConfig())


class ToyConfig(Config):
    """What a toy stage computes."""

    text: str = "a"
    """Written to the output."""
    sleep: float = 0.0
    """Seconds the job takes."""


def identifier() -> Identifier:
    """Fingerprints for which these tests are first-party code."""
    return Identifier(code=CodeIndex({"tests": TESTS}), cache=DigestCache())


def write(ctx: JobContext) -> JobResult:
    """Write the config's text after the texts of all inputs."""
    for step in range(3):
        ctx.progress(step + 1, 3, "steps")
        ctx.log_metrics({"loss": 1.0 / (step + 1)}, step)
        time.sleep(ctx.config.sleep / 3)
    parts = [(ref.path / "text.txt").read_text() for _, ref in sorted(ctx.inputs.items())]
    text = "".join([*parts, ctx.config.text])
    (ctx.out / "text.txt").write_text(text)
    (ctx.out / "sub").mkdir()
    (ctx.out / "sub" / "more.txt").write_text(text * 2)
    with (ctx.work.parent.parent / "calls.txt").open("a") as file:
        file.write(f"{ctx.stage} {ctx.fingerprint}\n")
    return JobResult("files", f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", metrics={"length": len(text)})


def constant(ctx: JobContext) -> JobResult:
    """Give the same output whatever the config says."""
    (ctx.out / "text.txt").write_text("constant")
    return JobResult(
        "files", f"sha256:{hashlib.sha256(b'constant').hexdigest()}", counts={"in": 2, "ok": 1, "filtered/dull": 1}
    )


def fail(ctx: JobContext) -> JobResult:
    """Fail."""
    raise RuntimeError("no luck with row 7")


def evaluate(ctx: JobContext) -> JobResult:
    """One evaluation, named after the config's text."""
    (ctx.out / "metrics.json").write_text("{}")
    params: dict[str, str | int | float] = {"system_prompt": f"You are {ctx.config.text}. <Prompt Start> ", "seed": 1}
    evaluation = Evaluation(ctx.config.text, params, {"color_accuracy": 0.5}, ("metrics.json",))
    digest = hashlib.sha256(ctx.config.text.encode()).hexdigest()
    return JobResult("files", f"sha256:{digest}", evaluations=(evaluation,))


def stage(name: str, job: str = "write", inputs: tuple[str, ...] = (), **config: str | float) -> Stage:
    """A toy stage that reads the named stages."""
    return Stage(
        name,
        f"tests.pipelines.toy:{job}",
        ToyConfig.model_validate({"text": name, **config}),
        inputs={upstream: upstream for upstream in inputs},
        execution=Execution(uses_cluster=False),
    )


def diamond(**texts: str) -> Pipeline:
    """a -> (b, c) -> d."""
    return Pipeline(
        "diamond",
        (
            stage("a", text=texts.get("a", "a")),
            stage("b", inputs=("a",), text=texts.get("b", "b")),
            stage("c", inputs=("a",), text=texts.get("c", "c")),
            stage("d", inputs=("b", "c"), text=texts.get("d", "d")),
        ),
    )
