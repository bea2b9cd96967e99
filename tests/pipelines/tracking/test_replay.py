"""What MLflow missed is written later: by the run itself, the next run, or by hand, and as often as one likes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient, server
from typer.testing import CliRunner
from werkzeug.serving import BaseWSGIServer, make_server

from pipelines.cli import app
from pipelines.engine.events import StageOutcome
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.tracking.journal import Journal, waiting
from pipelines.tracking.mlflow_client import TrackerAwayError
from pipelines.tracking.mlflow_runs import EVALS, PIPELINES
from pipelines.tracking.mlflow_writer import MlflowWriter
from pipelines.tracking.replay import groups, replay_waiting
from pipelines.tracking.tracker import MlflowTracking
from pipelines.tracking.uri import VARIABLE, default_uri
from tests.pipelines.toy import stage
from tests.pipelines.tracking.drivers import die, start
from tests.pipelines.tracking.observed import curve, observed, runs, toy_training, track


class Server:
    """MLflow's server on a port of its own, in a thread: a process of its own would import MLflow at each start."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._running: BaseWSGIServer | None = None

    def start(self, database: str) -> None:
        os.environ[server.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{self.root / database}"
        server.handlers._tracking_store = server.handlers._model_registry_store = None
        self._running = make_server("127.0.0.1", self.port, server.app, threaded=True)
        threading.Thread(target=self._running.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._running is not None:
            self._running.shutdown()
            self._running.server_close()


@pytest.fixture
def served(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in (server.BACKEND_STORE_URI_ENV_VAR, VARIABLE):
        monkeypatch.setenv(name, "")  # the server sets it, too
    monkeypatch.setenv(server.SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(server.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setenv(server.ARTIFACTS_DESTINATION_ENV_VAR, str(tmp_path / "artifacts"))
    for name in ("first.db", "empty.db"):
        shutil.copy(database, tmp_path / name)
    served = Server(tmp_path)
    served.start("first.db")
    yield served
    served.stop()


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_server_that_goes_and_comes_back_has_everything_once(tmp_path: Path, served: Server) -> None:
    notes: list[str] = []
    outcome: list[object] = []
    pipeline = toy_training(gated=True)
    driver = threading.Thread(target=lambda: outcome.extend(track(tmp_path, pipeline, served.uri, notes, "stopped")))
    driver.start()
    client = MlflowClient(served.uri, served.uri)

    def halfway() -> bool:
        found = client.get_experiment_by_name(PIPELINES)
        trained = client.search_runs([found.experiment_id], "tags.`lumina.stage` = 'train@1'") if found else []
        return bool(trained) and [step for step, _ in curve(client, trained[0], "rate")] == [0, 1, 2]

    wait_for(halfway, "the points before the gate")
    served.stop()
    (tmp_path / "train@1.go").touch()
    # The second training stage begins and gets as far as its gate with nobody to tell.
    wait_for(lambda: any("away" in note for note in notes), "a note that MLflow is away")
    wait_for(lambda: list((tmp_path / "stages").glob("train@2/*/curve.jsonl")), "the next stage")
    served.start("first.db")
    wait_for(lambda: any("is back" in note for note in notes), "a note that MLflow is back")
    (tmp_path / "train@2.go").touch()
    driver.join(240)

    summary, links = outcome
    assert summary.ok  # type: ignore[attr-defined]
    assert links.buffer is None  # type: ignore[attr-defined]
    assert waiting(tmp_path) == ()
    assert len(notes) == 2, notes
    found = runs(client, PIPELINES)
    assert {one.info.status for one in found} == {"FINISHED"}
    assert sorted(one.data.tags.get("lumina.stage", "") for one in found) == [
        "", "evaluate", "tag", "train@1", "train@2"
    ]  # fmt: skip
    for one in found:
        if one.data.tags["lumina.kind"] == "train":
            assert curve(client, one, "loss") == [(step, pytest.approx(1 / (step + 1))) for step in range(5)]
            assert curve(client, one, "rate") == [(step, step) for step in range(5)]
    [evaluation] = runs(client, EVALS)
    assert evaluation.info.status == "FINISHED"
    # A server takes no path of ours for a model's source: a text beside the run says where the checkpoint is.
    [version] = client.search_model_versions("name = 'lumina-video-toy'")
    [trained] = [one for one in found if one.data.tags.get("lumina.stage") == "train@2"]
    assert version.source == f"runs:/{trained.info.run_id}/checkpoint"
    assert [file.path for file in client.list_artifacts(trained.info.run_id, "checkpoint")] == ["checkpoint/README.md"]
    assert trained.data.tags["lumina.manifest"] in version.description


def test_a_server_that_comes_back_empty_is_told_all_of_it_again(tmp_path: Path, served: Server) -> None:
    store, notes = Store(tmp_path), []  # type: ignore[var-annotated]
    store.prepare()
    tracking = MlflowTracking(store, "forgotten", "forgotten", uri=served.uri, note=notes.append)
    tracking.begin_stage(stage("a"), "ab" * 32, {}, None)
    tracking.point("a", {"loss": 1.0}, 0)
    wait_for(lambda: "a" in tracking.found.stages, "the stage's run")
    served.stop()
    tracking.point("a", {"loss": 0.5}, 1)
    wait_for(lambda: notes, "a note that MLflow is away")
    served.start("empty.db")
    tracking.end_stage("a", StageOutcome("a", "failed", error="no luck"))
    assert tracking.close("FAILED").buffer is None
    assert not (tmp_path / "tracking" / "forgotten.refused.jsonl").exists()
    client = MlflowClient(served.uri)
    by_name = {one.info.run_name: one for one in runs(client, PIPELINES)}
    assert {name: one.info.status for name, one in by_name.items()} == {
        "forgotten | forgotten": "FAILED", "a": "FAILED"
    }  # fmt: skip
    assert curve(client, by_name["a"], "loss") == [(0, 1.0), (1, 0.5)]


def test_the_next_run_writes_what_the_last_one_could_not(tmp_path: Path, database: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    summary, links = track(tmp_path, toy_training(), run_id="1-away")
    assert summary.ok
    assert links.buffer == tmp_path / "tracking" / "1-away.jsonl"
    (tmp_path / "mlflow.db").rmdir()
    shutil.copy(database, tmp_path)
    notes: list[str] = []
    track(tmp_path, toy_training(), notes=notes, run_id="2-next")
    assert [note for note in notes if "1-away" in note]
    assert waiting(tmp_path) == ()
    client = MlflowClient(default_uri(Store(tmp_path)))
    found = runs(client, PIPELINES)
    assert [one.info.status for one in found] == ["FINISHED"] * 10
    # The manifest could not name the run that computed it; MLflow knows it by now.
    computed, cached = (
        next(one for one in found if one.data.tags["lumina.run"] == name and one.data.tags["lumina.kind"] == "tag")
        for name in ("1-away", "2-next")
    )
    assert cached.data.tags["lumina.origin_run"] == computed.info.run_id
    assert len(runs(client, EVALS)) == 1


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the journal of a whole run, whose server was never there."""
    root = tmp_path_factory.mktemp("journal")
    track(root, toy_training(prompt="You are {{x}}. <Prompt Start> "), "http://127.0.0.1:9", run_id="whole")
    return root


def test_events_may_be_written_again_from_any_point(tmp_path: Path, database: Path, journal: Path) -> None:
    """As after a kill between an event and the note that it arrived."""
    results = []
    for before in (0, 9, 100):
        # Moved, so that its files are at another place than it says.
        store, uri = Store(tmp_path / "moved"), f"sqlite:///{tmp_path}/{before}.db"
        shutil.copytree(journal, store.root)
        shutil.copy(database, tmp_path / f"{before}.db")
        opened = Journal.claim(store.root / "tracking" / "whole.jsonl")
        assert opened is not None
        events, strange = opened.read()
        opened.close()
        assert strange == []
        if before:
            writer = MlflowWriter(uri, store)
            for group in list(groups(events))[:before]:
                for part in writer.parts(group):
                    part()
        notes: list[str] = []
        [replayed] = replay_waiting(store, None, notes.append, to=uri)
        assert not [note for note in notes if "refused" in note]
        assert (replayed.events, replayed.killed) == (len(events), False)
        assert list(replay_waiting(store, None, pytest.fail)) == []
        results.append(observed(uri))
        shutil.rmtree(store.root)
    assert results[0] == results[1] == results[2]
    assert len(results[0]["runs"]) == 6
    assert len(results[0]["models"]) == 1


def test_what_a_killed_driver_left_is_written_and_ends_as_killed(tmp_path: Path, database: Path) -> None:
    start(die, tmp_path).join(240)
    shutil.copy(database, tmp_path)
    uri = default_uri(Store(tmp_path))
    with (tmp_path / "tracking" / "dead.jsonl").open("a") as file:
        file.write('{"event": "LogPoint", "stage": "a", "metr')

    away = CliRunner().invoke(app, ["track", "--store", str(tmp_path)])
    assert away.exit_code == 1
    assert "still unwritten, and kept: dead: http://127.0.0.1:9 does not answer" in " ".join(away.output.split())

    done = CliRunner().invoke(app, ["track", "dead", "--store", str(tmp_path), "--uri", uri])
    assert done.exit_code == 0, done.output
    assert "3 records of run dead" in done.output
    found = runs(MlflowClient(uri), PIPELINES)
    by_name = {one.info.run_name: one for one in found}
    assert {name: one.info.status for name, one in by_name.items()} == {"dead | dead": "KILLED", "a": "KILLED"}
    assert curve(MlflowClient(uri), by_name["a"], "loss") == [(0, 1.0)]
    assert "MLflow has all records" in CliRunner().invoke(app, ["track", "--store", str(tmp_path)]).output
    unknown = CliRunner().invoke(app, ["track", "dead", "--store", str(tmp_path)])
    assert unknown.exit_code == 1
    assert "no unwritten records of a run 'dead'" in " ".join(unknown.output.split())


def test_a_run_that_goes_on_keeps_its_records_for_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    tracking = MlflowTracking(store, "living", "living", uri="http://127.0.0.1:9")
    assert list(replay_waiting(store, None, pytest.fail)) == []
    assert "still goes on" in CliRunner().invoke(app, ["track", "--store", str(tmp_path)]).output
    links = tracking.close("FINISHED")
    assert links.buffer is not None
    with pytest.raises(TrackerAwayError, match="does not answer"):
        list(replay_waiting(store, "http://127.0.0.1:9", pytest.fail))
    # Records of another server are not this one's.
    assert list(replay_waiting(store, "http://elsewhere:1", pytest.fail)) == []
    assert links.buffer.exists()


def test_an_event_that_is_refused_does_not_hold_up_the_others(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path)
    store, notes = Store(tmp_path), []  # type: ignore[var-annotated]
    tracking = MlflowTracking(store, "r", "r", note=notes.append)
    tracking.begin_stage(stage("a"), "ab" * 32, {}, None)
    tracking.point("never begun", {"loss": 1.0}, 0)
    tracking.begin_stage(stage("b"), "cd" * 32, {}, None)
    links = tracking.close("FINISHED")
    assert links.buffer is None
    [note] = notes
    refused = tmp_path / "tracking" / "r.refused.jsonl"
    assert "MLflow refused a record (LogPoint: 'never begun')" in note
    assert str(refused) in note
    [kept] = [json.loads(line) for line in refused.read_text().splitlines()]
    assert (kept["stage"], kept["error"]) == ("never begun", "KeyError: 'never begun'")
    names = {one.data.tags.get("lumina.stage") for one in runs(MlflowClient(default_uri(store)), PIPELINES)}
    assert names == {None, "a", "b"}


def test_a_forged_journal_uploads_nothing_but_outputs(tmp_path: Path, database: Path, journal: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the password")
    root = tmp_path / "store"
    shutil.copytree(journal, root)
    shutil.copy(database, root)
    # A manifest that lists a link to elsewhere: whoever can write to the store can seal one.
    [record] = (root / "stages" / "evaluate").glob("*/MANIFEST.json")
    manifest = Manifest.from_sealed(record.read_text())
    (record.parent / manifest.attempt / "link.txt").symlink_to(secret)
    names = ("metrics.json", "link.txt", "none.txt")
    files = (*manifest.files, replace(manifest.files[0], path="link.txt"))
    evaluations = ({**manifest.evaluations[0], "artifacts": names},)
    record.write_text(replace(manifest, files=files, evaluations=evaluations, artifacts=names).to_json())
    path = root / "tracking" / "whole.jsonl"
    header, *lines = path.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    [begun] = [event for event in events if event["event"] == "BeginStage" and event["stage"] == "evaluate"]
    ended = {"event": "EndStage", "at_ms": 1, "stage": "evaluate", "state": "done"}
    forged = [
        begun | {"fingerprint": "sha256:../../x"},
        begun | {"stage": "../evaluate"},
        begun | {"system_prompts": "../../secret.txt"},
        ended | {"output": ".."},
        ended | {"output": str(tmp_path)},
        {"event": "Artifacts", "at_ms": 1, "stage": "evaluate", "names": ["../secret.txt"]},
        {"event": "close_orphans", "at_ms": 1},
        {"event": "LogPoint", "at_ms": 1, "stage": "evaluate", "point": {"metrics": {"loss": "x"}, "step": 0}},
        {"event": "EndRun", "at_ms": "now", "state": "FINISHED"},
        [1, 2],
    ]
    other = ended | {"output": "a-another"}
    path.write_text("\n".join([header, *map(json.dumps, [*events[:-1], other, *forged, events[-1]])]) + "\n")
    notes: list[str] = []
    uri = default_uri(Store(root))
    [replayed] = replay_waiting(Store(root), None, notes.append, to=uri)
    assert replayed.events == len(events) + 1
    assert not replayed.killed
    assert len([note for note in notes if "no run has written a record in it" in note]) == len(forged)
    assert len((root / "tracking" / "whole.refused.jsonl").read_text().splitlines()) == len(forged)
    assert f"MLflow is not told all of evaluate: {record} is of another output" in notes
    assert [f"{name} is no longer there" in " ".join(notes) for name in names] == [False, True, True]
    assert not [one for one in root.rglob("*") if one.is_file() and not one.is_symlink() and one.suffix != ".jsonl"
                and b"the password" in one.read_bytes()]  # fmt: skip
    client = MlflowClient(uri)
    [evaluation] = runs(client, EVALS)
    assert [file.path for file in client.list_artifacts(evaluation.info.run_id)] == ["metrics.json"]


def test_an_output_that_is_gone_is_told_and_holds_up_nothing(tmp_path: Path, database: Path, journal: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(journal, root)
    shutil.copy(database, root)
    shutil.rmtree(root / "stages" / "train@2")
    notes: list[str] = []
    uri = default_uri(Store(root))
    [replayed] = replay_waiting(Store(root), None, notes.append, to=uri)
    assert replayed.left_out == ()
    assert [note for note in notes if "not told all of train@2" in note and "MANIFEST.json is gone" in note]
    client = MlflowClient(uri)
    assert {one.info.status for one in runs(client, PIPELINES)} == {"FINISHED"}
    [evaluation] = runs(client, EVALS)
    read = {use.dataset.name: use.dataset for use in evaluation.inputs.dataset_inputs}
    assert json.loads(read["train@2"].source)["uri"].startswith("lumina:sha256:")


@pytest.mark.parametrize("kind", ["link", "folder", "no header", "other run", "other shape"])
def test_what_is_no_journal_is_never_opened_for_one(tmp_path: Path, kind: str) -> None:
    (tmp_path / "tracking").mkdir()
    path = tmp_path / "tracking" / "x.jsonl"
    good = {"schema": "lumina.tracking/3", "run": "x", "uri": None}
    if kind == "link":
        (tmp_path / "elsewhere").write_text(json.dumps(good) + "\n")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "no header":
        path.write_text('{"event": "BeginRun"}\n')
    else:
        path.write_text(json.dumps(good | ({"run": "y"} if kind == "other run" else {"uri": 3})) + "\n")
    notes: list[str] = []
    assert list(replay_waiting(Store(tmp_path), None, notes.append)) == []
    assert [f"{path} is no journal of tracking events" in note for note in notes] == [True]
    assert path.exists()
