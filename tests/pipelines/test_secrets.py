"""No password of an address is written, shown or sent, whatever a run and its pages make."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.store.store import Store
from pipelines.secrets import scrub, scrubbed
from pipelines.tracking.tracker import MlflowTracking
from pipelines.tracking.uri import with_password
from tests.pipelines.toy import diamond, identifier, stage

MARK = "marked-7731"
AWAY = f"http://someone:{MARK}@127.0.0.1:9/mlflow?api_key={MARK}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://me:pw@host:5000/x", "http://host:5000/x"),
        ("https://token@host", "https://host"),
        ("at mysql+pymysql://me:p@w@host/db, at http://me:pw@host", "at mysql+pymysql://host/db, at http://host"),
        ("postgresql://me:p/w@host/db?sslpassword=x&sslmode=on", "postgresql://host/db?sslpassword=***&sslmode=on"),
        ("-o 'tracking_uri=http://me:p%40w@host' -o x=y", "-o 'tracking_uri=http://host' -o x=y"),
        ("(GET /b?X-Amz-Signature=ab&X-Amz-Security-Token=c)", "(GET /b?X-Amz-Signature=***&X-Amz-Security-Token=***)"),
    ],
)  # fmt: skip
def test_a_place_keeps_its_name_and_loses_its_password(text: str, told: str) -> None:
    assert scrub(text) == told == scrub(told)
    assert scrubbed({text: [text, ("x", {"y": text})], "n": 1}) == {told: [told, ["x", {"y": told}]], "n": 1}


@pytest.mark.parametrize(
    "text",
    [
        "gs://anonymous@bucket/a.mp4",
        "http://host:5000/runs/evaluate@web",
        "file:///store/encode_latents@videos/a-1",
        "s3://bucket/encode_latents@videos?region=eu",
        "select.min_fps=8 & mail me@host",
    ],
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("word", ["://", "://:", "?token", "://a:b@", "?" + "x" * 50, "&password=", ":" * 50])
def test_no_text_takes_long(word: str) -> None:
    scrub(word * (300_000 // len(word)))


def _greps(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]


@pytest.mark.parametrize("how", ["setting", "variable"])
def test_a_run_and_its_pages_write_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    # Toy stages stand in for those of the demo: no cluster. One fails, and says the password.
    def failing(settings: object) -> object:
        toys = diamond().stages
        return type(diamond())("diamond", (*toys, stage("broken", job="fail", inputs=("a",))))

    monkeypatch.setattr("pipelines.text_to_video.build", failing)
    monkeypatch.setattr("pipelines.engine.runner.Identifier", lambda cache: identifier())
    monkeypatch.setattr("pipelines.engine.plan.Identifier", lambda cache: identifier())
    monkeypatch.setattr("tests.pipelines.toy.fail", _fail)
    words = ["demo", "--store", str(tmp_path / "store")]
    if how == "variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    else:
        words += ["-o", f"tracking_uri={AWAY}"]
    runner = CliRunner()
    said = [runner.invoke(cli.app, ["run", *words], catch_exceptions=False)]
    assert "broken failed" in said[0].output
    assert "MLflow: http://127.0.0.1:9/mlflow" in said[0].output
    store = ["--store", str(tmp_path / "store")]
    for command in (
        ["status"],
        ["status", "--json"],
        ["plan", *words],
        ["track"],
        ["verify"],
        ["diff", "demo", "demo"],
    ):
        options = [] if command[0] == "plan" else store
        said.append(runner.invoke(cli.app, [*command, *options], catch_exceptions=False))
    page = ["diff", "demo", "demo", "--html", str(tmp_path / "diff.html"), *store]
    said.append(runner.invoke(cli.app, page, catch_exceptions=False))
    assert (tmp_path / "diff.html").is_file()
    assert list((tmp_path / "store" / "tracking").glob("*.jsonl"))  # MLflow is away
    assert not [one.output for one in said if MARK in one.output]
    assert _greps(tmp_path) == []


def _fail(ctx: object) -> None:
    raise RuntimeError(f"GET {AWAY} was refused")


def test_mlflow_is_told_no_password(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    config = {"name": "demo", "tracking_uri": AWAY, "train": {"1": {"note": [AWAY]}}}
    tracking = MlflowTracking(Store(tmp_path / "store"), "r1", "demo", config, f"sqlite:///{database}")
    tracking.close("FINISHED")
    with sqlite3.connect(database) as opened:
        told = dict(opened.execute("select key, value from params").fetchall())
    assert told["tracking_uri"] == "http://127.0.0.1:9/mlflow?api_key=***"
    assert _greps(tmp_path) == []


def test_what_waits_for_mlflow_is_sent_with_the_password_of_the_environment() -> None:
    assert with_password(scrub(AWAY), {"MLFLOW_TRACKING_URI": AWAY}) == AWAY
    assert with_password("http://other", {"MLFLOW_TRACKING_URI": AWAY}) == "http://other"
    assert with_password(scrub(AWAY), {}) == scrub(AWAY)
