"""Pictures on the way to MLflow: a series over steps, once each, from where they lie now."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from jobs.context import JobContext, JobResult
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.store import Store
from pipelines.tracking.events import BeginRun, BeginStage, LogImage
from pipelines.tracking.images import picture
from pipelines.tracking.mlflow_names import image_key
from pipelines.tracking.mlflow_runs import PIPELINES
from pipelines.tracking.mlflow_writer import MlflowWriter
from pipelines.tracking.uri import default_uri
from tests.pipelines.toy import ToyConfig
from tests.pipelines.tracking.observed import runs, track

FILE = "samples/step-00000002/a.png"


def sampled(ctx: JobContext) -> JobResult:
    """A picture at two steps, which end in the output."""
    for step in (2, 4):
        file = f"samples/step-{step:08d}/a.png"
        for root in (ctx.work, ctx.out):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 6, 3), step, np.uint8)).save(root / file)
        ctx.log_image("web/A red circle, still.", file, step)
    return JobResult("files", "sha256:" + "0" * 64)


def _pipeline() -> Pipeline:
    return Pipeline("p", (Stage("train@1", "tests.pipelines.tracking.test_images:sampled", ToyConfig(text="t")),))


def _images(client: MlflowClient, run: str) -> list[str]:
    return sorted(one.path.partition("+timestamp")[0] for one in client.list_artifacts(run, "images"))


def test_a_series_of_pictures_is_written_once(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    track(tmp_path, _pipeline())
    store = Store(tmp_path)
    client = MlflowClient(default_uri(store))
    [stage] = [run for run in runs(client, PIPELINES) if run.data.tags.get("lumina.stage") == "train@1"]
    key = image_key("web/A red circle, still.")
    expected = [f"images/{key.replace('/', '~')}+step+{step}" for step in (2, 2, 4, 4)]
    assert _images(client, stage.info.run_id) == expected
    # The scratch directory is gone by now: events that are applied again find the pictures in the output.
    fingerprint = stage.data.tags["lumina.fingerprint"]
    notes: list[str] = []
    writer = MlflowWriter(default_uri(store), store, note=notes.append)
    parent = client.get_run(stage.data.tags["mlflow.parentRunId"])
    name, number = "toy", parent.data.tags["lumina.run"]
    for event in (
        BeginRun(name=name, run=number, config={}, tags={}),
        BeginStage(stage="train@1", kind="train", fingerprint=fingerprint),
        LogImage(stage="train@1", key="web/A red circle, still.", step=2, file=FILE),
        LogImage(stage="train@1", key="web/A red circle, still.", step=6, file="samples/step-00000006/a.png"),
    ):
        for part in writer.parts([event]):
            part()
    assert _images(client, stage.info.run_id) == expected
    assert notes == ["train@1: samples/step-00000006/a.png is gone, so MLflow has no picture of step 6"]


@pytest.mark.parametrize("linked", ["file", "work"])
def test_a_link_is_no_picture(tmp_path: Path, linked: str) -> None:
    store, fingerprint = Store(tmp_path / "store"), "ab" * 32
    elsewhere = tmp_path / "elsewhere" / FILE
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"secret")
    work = store.directory("train@1", fingerprint) / "work"
    if linked == "work":
        work.parent.mkdir(parents=True)
        work.symlink_to(tmp_path / "elsewhere")
    else:
        (work / FILE).parent.mkdir(parents=True)
        (work / FILE).symlink_to(elsewhere)
    assert picture(store, "train@1", fingerprint, FILE) is None


def test_keys_are_what_mlflow_takes_and_stay_apart() -> None:
    assert image_key("web/A red circle.") == "web/A red circle."
    assert image_key("web/A red, circle") != image_key("web/A red; circle")
    assert len(image_key("web/" + "long " * 100)) < 130
