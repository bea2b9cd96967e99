"""What keeps records from MLflow is away, refuses them, or is this machine's own fault."""

from __future__ import annotations

import socket
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.engine.store.store import Store
from pipelines.tracking.events import BeginRun
from pipelines.tracking.mlflow_client import (
    TrackerAwayError,
    TrackerFaultError,
    TrackerRefusedError,
    check_answers,
    sorted_error,
)
from pipelines.tracking.mlflow_writer import MlflowWriter
from pipelines.tracking.uri import target


def answering_with(status: int) -> HTTPServer:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, TrackerRefusedError, "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (404, TrackerRefusedError, "404"),
        (429, TrackerAwayError, "429"),
        (500, TrackerAwayError, "500"),
    ],
)
def test_the_answer_of_a_server_says_which(
    status: int, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = answering_with(status)
    uri = f"http://me:secret@127.0.0.1:{server.server_port}"
    with pytest.raises(MlflowException) as caught:
        MlflowClient(uri).get_experiment("1")
    server.shutdown()
    found = sorted_error(caught.value, uri)
    assert type(found) is kind
    assert said in str(found)
    assert "secret" not in str(found)
    assert "\n" not in str(found)


def test_nobody_there_is_away(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://me:secret@127.0.0.1:{port}"
    with pytest.raises(TrackerAwayError, match=rf"^http://127\.0\.0\.1:{port} does not answer \("):
        check_answers(uri)
    assert type(sorted_error(OSError("Connection reset by peer"), uri)) is TrackerAwayError
    assert type(sorted_error(MlflowException("(sqlite3) database is locked"), "sqlite:////m.db")) is TrackerAwayError


def test_what_this_machine_lacks_is_its_fault(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "m.db").write_text("x" * 4096)
    with pytest.raises(TrackerFaultError, match=r"m\.db: file is not a database"):
        check_answers(target(store, f"sqlite:///{tmp_path}/m.db").uri)
    with pytest.raises(TrackerFaultError, match=r"names no file, .*: expected sqlite:////<path>/mlflow\.db"):
        check_answers(target(store, "sqlite://").uri)
    readonly = sqlite3.OperationalError("attempt to write a readonly database")
    assert type(sorted_error(readonly, f"sqlite:///{tmp_path}/m.db")) is TrackerFaultError
    found = sorted_error(ModuleNotFoundError("No module named 'psycopg'"), "postgresql://u:p@db/x")
    assert type(found) is TrackerFaultError
    assert str(found).endswith("'psycopg': postgresql://db/x needs a package that is not installed")


@pytest.mark.parametrize("uri", ["file:./mlruns", "mlruns", "{here}/mlruns"])
def test_a_folder_is_refused_with_what_to_take_instead_and_works_where_mlflow_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    taken = target(Store(tmp_path), uri.format(here=tmp_path)).uri
    with pytest.raises(TrackerRefusedError, match=f"name a database, such as sqlite:///{tmp_path}/mlruns/mlflow.db; "):
        check_answers(taken)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_answers(taken)
    writer = MlflowWriter(taken, Store(tmp_path))
    tags = {"lumina.run": "r", "lumina.kind": "pipeline"}
    for part in writer.parts([BeginRun(run="r", name="n", tags=tags, config={"a": 1})]):
        part()
    assert MlflowClient(taken).get_run(writer.found.parent).data.params == {"a": "1"}
