"""A sweep is one parent in MLflow, whose children are the runs of its arms, however often it is written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.tracking.mlflow_client import TrackerAwayError
from pipelines.tracking.mlflow_runs import PIPELINES
from pipelines.tracking.mlflow_sweeps import track_sweep

RECORD = SweepRecord(
    name="lrs", config="demo", command="lumina sweep demo", started="now",
    runs=(
        ArmRun(arm="lr=1", seed=0, name="a", state="done", run="r1"),
        ArmRun(arm="lr=2", seed=0, name="b", state="failed", run="r2"),
        ArmRun(arm="lr=3", seed=0, name="c"),
    ),
    comparison={"kind": "clips", "arms": [{"arm": "lr=1", "score": {"value": 0.75}}], "noise": {"sd": 0.125}},
)  # fmt: skip


def test_runs_become_children_of_one_parent(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    with pytest.raises(TrackerAwayError, match="has no experiment"):
        track_sweep(uri, "/it's", RECORD, "", "")
    experiment = client.create_experiment(PIPELINES, artifact_location=(tmp_path / "artifacts").as_uri())
    tags = {"lumina.run": "r1", "lumina.kind": "pipeline"}
    child = client.create_run(experiment, tags=tags).info.run_id
    stage = client.create_run(experiment, tags=tags | {"lumina.kind": "train", "mlflow.parentRunId": child}).info.run_id
    assert track_sweep(uri, "/it's", RECORD, "<p>page", "lr=1 is best") == ("r2",)
    done = replace(RECORD, runs=RECORD.runs[:1])
    assert track_sweep(uri, "/it's", done, "<p>page", "lr=1 is best") == ()
    [parent] = client.search_runs([experiment], "tags.`lumina.kind` = 'sweep'")
    assert (parent.info.status, parent.data.tags["mlflow.note.content"]) == ("FINISHED", "lr=1 is best")
    assert parent.data.metrics == {
        "sweep/done": 1, "sweep/failed": 0, "sweep/best_score": 0.75, "sweep/seed_sd": 0.125
    }  # fmt: skip
    assert {one.path for one in client.list_artifacts(parent.info.run_id)} == {"sweep.html", "sweep.json"}
    found = client.get_run(child).data.tags
    assert found["mlflow.parentRunId"] == parent.info.run_id
    assert (found["lumina.sweep"], found["lumina.arm"], found["lumina.seed"]) == ("lrs", "lr=1", "0")
    assert client.get_run(stage).data.tags["mlflow.parentRunId"] == child
    # A sweep of the same name in another store is another one.
    track_sweep(uri, "/other", done, "", "")
    assert len(client.search_runs([experiment], "tags.`lumina.kind` = 'sweep'")) == 2
