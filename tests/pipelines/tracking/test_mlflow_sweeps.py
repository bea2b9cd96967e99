"""A sweep is one parent in MLflow, whose children are the runs of its arms, however often it is written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.tracking.mlflow_client import TrackerAwayError
from pipelines.tracking.mlflow_runs import PIPELINES
from pipelines.tracking.mlflow_sweeps import track_sweep
from pipelines.tracking.tracker import MlflowTracking
from pipelines.tracking.uri import default_uri
from tests.pipelines.tracking.observed import runs

RECORD = SweepRecord(
    name="lrs", config="demo", command="lumina sweep demo", started="now",
    runs=(
        ArmRun(arm="lr=1", seed=0, name="a", state="done", run="r1"),
        ArmRun(arm="lr=2", seed=0, name="b", state="failed", run="r2"),
        ArmRun(arm="lr=3", seed=0, name="c"),
    ),
    comparison={"kind": "clips", "arms": [{"arm": "lr=1", "score": {"value": 0.75}}], "noise": {"sd": 0.125}},
)  # fmt: skip


def test_a_run_of_a_sweep_is_below_it_while_it_is_at_work(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    store = Store(tmp_path)
    client = MlflowClient(default_uri(store))
    for run in ("r1", "r2"):
        tags = {"lumina.sweep": "lrs", "lumina.arm": "lr=1"}
        tracking = MlflowTracking(store, run, "lrs.a", tags=tags)
        tracking.close("FINISHED")
    found = runs(client, PIPELINES)
    [parent] = [one for one in found if one.data.tags["lumina.kind"] == "sweep"]
    children = [one for one in found if one.data.tags["lumina.kind"] == "pipeline"]
    assert [one.data.tags["mlflow.parentRunId"] for one in children] == [parent.info.run_id] * 2
    assert (parent.info.run_name, parent.info.status) == ("lrs | sweep", "RUNNING")
    assert children[0].data.tags["lumina.arm"] == "lr=1"
    # The end of the sweep finds the run that its first one made; of two that began at once, each may have made one.
    tags = {key: parent.data.tags[key] for key in ("lumina.kind", "lumina.sweep", "lumina.store")}
    twin = client.create_run(parent.info.experiment_id, start_time=parent.info.start_time + 1, tags=tags)
    client.set_tag(children[1].info.run_id, "mlflow.parentRunId", twin.info.run_id)
    done = replace(RECORD, runs=RECORD.runs[:1])
    assert track_sweep(default_uri(store), store.uri, done, "", "") == ()
    [parent] = client.search_runs([parent.info.experiment_id], "tags.`lumina.kind` = 'sweep'")
    assert (parent.info.status, parent.data.tags["lumina.config"]) == ("FINISHED", "demo")
    for child in children:
        assert client.get_run(child.info.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id


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
