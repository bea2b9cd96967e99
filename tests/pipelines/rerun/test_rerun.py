"""The whole way of a rerun: recorded by `lumina run`, computed again by the recorded code, compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store.store import Store
from pipelines.git import code_home

SMALL = ("data.shapes.clips={synthetic: 4, handheld: 4, web: 4}", "data.shapes.images={synthetic: 2}")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(code_home() is None, reason="the code is in no repository, so no commit was recorded"),
]


def lumina(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from pipelines.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env={**os.environ}
    )


@pytest.fixture(scope="module")
def recorded(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished run of the first stages."""
    import ray

    store = tmp_path_factory.mktemp("recorded") / "store"
    address = ray.get_runtime_context().gcs_address
    overrides = [part for value in (*SMALL, f"runtime.ray_address={address}") for part in ("-o", value)]
    done = lumina("run", "demo", "--until", "tag", "--store", str(store), *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout.startswith("{"), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_proof_of_reproduction(recorded: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = lumina("rerun", "--store", str(recorded), "--into", str(again), "--json")
    found = answer(done)
    assert (done.returncode, found["exit"]) == (0, 0), done.stderr
    assert [check["state"] for check in found["checks"]] == ["ok"] * 7, found["checks"]
    assert {stage["name"]: stage["outcome"] for stage in found["verdict"]["stages"]} == dict.fromkeys(
        ("render_shapes", "ingest", "probe", "tag"), "bitwise equal"
    )
    assert found["difference"]["answer"] == "equal: all 4 stages have the same digests"
    record = Store(again).get_run(None)
    assert record.rerun["of"] == Store(recorded).get_run(None).run
    assert record.until == "tag"
    _check_tags(recorded, record.run, found["verdict"]["answer"])


def _check_tags(store: Path, run: str, answer: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lumina-video/pipelines")
    assert experiment is not None
    [tracked] = client.search_runs(
        [experiment.experiment_id], f"tags.`lumina.run` = '{run}' and tags.`lumina.kind` = 'pipeline'"
    )
    assert tracked.data.tags["lumina.verdict"] == answer
    assert tracked.data.tags["lumina.rerun_of"]


def test_from_a_stage_on_what_is_before_it_is_taken_over(recorded: Path) -> None:
    done = lumina("rerun", "--store", str(recorded), "--from", "tag", "--json")
    found = answer(done)
    assert done.returncode == 0, done.stderr
    store = Store(found["store"])
    assert store.root.parent == recorded / "reruns"
    states = {name: entry.state for name, entry in store.get_run(None).stages.items()}
    assert states == {"render_shapes": "cached", "ingest": "cached", "probe": "cached", "tag": "done"}


def test_nothing_is_started_without_the_code(recorded: Path, tmp_path: Path) -> None:
    store = Store(recorded)
    record = store.get_run(None)
    assert record.lock is not None
    lock = {**record.lock, "code": {**record.lock["code"], "commit": "0" * 40}}
    Store(tmp_path).put_run(replace(record, lock=lock))
    done = lumina("rerun", "--store", str(tmp_path))
    assert done.returncode == 4, done.stderr
    assert "does not have commit 0000" in " ".join(done.stdout.split())
    assert "Nothing was started." in done.stdout
    assert not (tmp_path / "stages").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("-o", "train.1.steps=3"), "a rerun keeps what was recorded, but for runtime"),
        (("--from", "nothing"), "--from nothing: the run has no such stage; it has render_shapes, ingest"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_error(recorded: Path, arguments: tuple[str, ...], error: str) -> None:
    done = lumina("rerun", "--store", str(recorded), *arguments)
    assert done.returncode == 1
    assert error in done.stderr
