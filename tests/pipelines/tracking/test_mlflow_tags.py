"""Tags of the runs of one pipeline run, read back and added to, and what is said where nobody answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.tracking.mlflow_client import TrackerAwayError
from pipelines.tracking.mlflow_runs import PIPELINES
from pipelines.tracking.mlflow_tags import read_tags, tag_pipeline_run


@pytest.fixture
def uri(tmp_path: Path, database: Path) -> str:
    shutil.copy(database, tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_pipeline_run_is_tagged_and_its_stages_are_read(uri: str) -> None:
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment(PIPELINES)

    def make(run: str, kind: str) -> str:
        made = client.create_run(experiment, tags={"lumina.run": run, "lumina.kind": kind})
        return str(made.info.run_id)

    parent, stages, other = make("r1", "pipeline"), {make("r1", "stage") for _ in range(2)}, make("r2", "stage")
    tag_pipeline_run(uri, "r1", {"lumina.verdict": "x" * 6000})
    assert client.get_run(parent).data.tags["lumina.verdict"] == "x" * 5000
    found = read_tags(uri, "r1", [other, "0" * 32])
    assert found.keys() == {*stages, other}
    assert found[other]["lumina.run"] == "r2"
    assert not any("lumina.verdict" in tags for tags in found.values())
    with pytest.raises(TrackerAwayError, match=r"mlflow\.db has no pipeline run r3$"):
        tag_pipeline_run(uri, "r3", {"a": "b"})


def test_what_cannot_be_asked_is_away(tmp_path: Path) -> None:
    nowhere, broken = tmp_path / "nowhere.db", tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    for path, said in ((nowhere, "nowhere.db is not there"), (broken, "broken.db: .*file is not a database")):
        with pytest.raises(TrackerAwayError, match=said):
            read_tags(f"sqlite:///{path}", "r1", ())
        with pytest.raises(TrackerAwayError, match=said):
            tag_pipeline_run(f"sqlite:///{path}", "r1", {"a": "b"})
    assert not nowhere.exists()
