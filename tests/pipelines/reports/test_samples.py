"""Clips while training, as they are shown: where the newest lie, a prompt's row on the page, and whether they fit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs.context import JobContext, JobResult
from lumina.evaluation.contact_sheet import write_strip
from lumina.hardware import parse_cluster
from pipelines import cli
from pipelines.commands.status import status_view
from pipelines.compare.runs import read_side
from pipelines.config import PipelineConfig, load_config
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.attempt import Attempt
from pipelines.engine.store.lease import process_start, this_machine
from pipelines.engine.store.store import Store
from pipelines.reports.cluster import on_cluster
from pipelines.reports.page.make import make_page
from pipelines.reports.page.samples import sample_rows
from pipelines.reports.progress import StageProgress
from pipelines.reports.samples import newest_samples
from pipelines.reports.status import begin
from tests.pipelines.toy import EXECUTE, ToyConfig, identifier


def sampled(ctx: JobContext) -> JobResult:
    """Ten looks at two prompts under two system prompts."""
    for step in range(10, 110, 10):
        folder = ctx.out / f"samples/step-{step:08d}"
        folder.mkdir(parents=True)
        rows = []
        for source in ("clean", "web"):
            for prompt in ("A <red> circle.", "A blue square."):
                name = f"{source}-{prompt[2:5].strip('<')}.png"
                write_strip(folder / name, np.full((9, 16, 16, 3), 2 * step, np.uint8))
                rows.append({"source": source, "prompt": prompt, "seed": 0, "strip": name})
        (folder / "samples.json").write_text(json.dumps({"rows": rows}))
    return JobResult("files", "sha256:" + "0" * 64)


def test_the_page_shows_a_prompt_over_the_steps(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    stages = (Stage("train@1", f"{__name__}:sampled", ToyConfig(text="t")),)
    run(Pipeline("p", stages), store, EXECUTE, run_id="r1", identifier=identifier())
    found = sample_rows(read_side(store, store.get_run("r1")))
    rows = found["train@1"]
    assert [(row.source, row.prompt) for row in rows] == [
        ("clean", "A <red> circle."),
        ("web", "A <red> circle."),
        ("clean", "A blue square."),
        ("web", "A blue square."),
    ]
    assert [step for step, _ in rows[0].pictures] == [10, 30, 50, 60, 80, 100]
    assert all(picture.startswith("data:image/png;base64,") for row in rows for _, picture in row.pictures)
    page = make_page(store, store.get_run("r1"))
    assert "Clips while train@1 trained" in page
    assert page.count("<img ") == 24
    assert "A &lt;red&gt; circle." in page


def test_status_says_where_the_newest_whole_clips_lie(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    held, other = "a" * 64, "b" * 64
    attempt = store.acquire("train@2", held)
    assert isinstance(attempt, Attempt)
    work = store.directory("train@2", held) / "work" / "samples"
    another = store.directory("train@2", other) / "work" / "samples" / "step-00000400"
    another.mkdir(parents=True)
    (another / "samples.json").write_text("{}")
    for step, age in ((100, 30), (200, 20), (300, None)):
        (work / f"step-{step:08d}").mkdir(parents=True)
        if age is not None:
            record = work / f"step-{step:08d}" / "samples.json"
            record.write_text("{}")
            os.utime(record, (1000 - age, 1000 - age))
    status = begin("r", "n", ["train@1", "train@2"], {}, "")
    status.pid, status.process_start, status.machine = os.getpid(), process_start(os.getpid()) or "", this_machine()
    # The stage began anew after these clips, in the run that goes on.
    status.stages = {"train@1": StageProgress("done"), "train@2": StageProgress("running", since=990.0)}
    found = newest_samples(store, status)
    # Those of step 300 are still being made, and those of step 400 are of another recipe.
    assert found == {"train@2": work / "step-00000200"}
    status.pid += 1
    assert newest_samples(store, status) == {}
    store.abandon(attempt)
    console = Console(width=300)
    with console.capture() as shown:
        console.print(status_view(begin("r", "n", ["train@2"], {}, ""), None, found))
    assert f"newest clips of train@2  {work / 'step-00000200'}" in shown.get()


def test_clips_that_do_not_fit_beside_training_are_told_by_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    sample = "train.4.sample={every: 100, batch_size: 64, prompts: [A red fox.]}"
    shown = CliRunner().invoke(cli.app, ["cost", "paper", "-o", sample, "--cluster", "32xH100"])
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    assert "train.4.sample needs" in words
    assert "train.4.sample.batch_size=1, a smaller evaluate.width" in words
    config = load_config("paper", [sample.replace("64", "1")], needs_clips=False)
    assert isinstance(config, PipelineConfig)
    assert on_cluster(config, parse_cluster("32xH100"), 0.3, 128).samples == ()
