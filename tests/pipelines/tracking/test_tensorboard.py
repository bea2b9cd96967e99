"""Event files for TensorBoard, read back with its own reader where it is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.context import JobContext, JobResult
from lumina.evaluation.contact_sheet import write_strip
from pipelines import cli
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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    pipeline = Pipeline("p", (Stage("train@1", f"{__name__}:trained", ToyConfig(text="t")), stage("a")))
    run(pipeline, store, EXECUTE, run_id="r1", identifier=identifier())
    return store


def test_the_reader_finds_curves_figures_and_clips(store: Store) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second replaces the first
        done = CliRunner().invoke(cli.app, ["track", "--to", "tensorboard", "--store", str(store.root)])
        assert done.exit_code == 0, done.output
    assert f"tensorboard --logdir {store.root / 'tensorboard'}" in done.output
    found = EventAccumulator(str(store.root / "tensorboard" / "r1" / "train@1")).Reload()
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [
        (10, pytest.approx(0.1)),
        (20, pytest.approx(0.05)),
    ]
    assert [(one.step, one.value) for one in found.Scalars("sample/shapes/shape_acc/web")] == [(20, 0.5)]
    assert [one.value for one in found.Scalars("train/clips")] == [7.0]
    [image] = found.Images("web/A red circle.")
    assert (image.step, image.height) == (20, 112)
    assert not [tag for tag in found.Tags()["scalars"] if tag.startswith("t_count")]


def test_an_absent_package_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "tensorboard.compat.proto.event_pb2"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(cli.app, ["track", "--to", "tensorboard", "--store", str(store.root)])
    assert done.exit_code == 1
    told = " ".join(done.output.split())
    assert 'pip install "lumina-video[tensorboard]"' in told
