"""What writers that died left: it goes once it is old, or nobody can want it; what is being written stays."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lumina.files import replace_file
from pipelines import cli
from pipelines.engine.events import NoDisplay
from pipelines.engine.runner import run
from pipelines.engine.store.gc import Policy, collect, find_garbage
from pipelines.engine.store.store import Store
from pipelines.reports.status import StatusFile, begin, read_status
from tests.pipelines.toy import EXECUTE, diamond, identifier

DAY = 86400.0
FOLDERS = ("cache", "latest", "live", "patches", "runs")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With one run that has ended."""
    found = Store(tmp_path)
    run(diamond(), found, EXECUTE, name="toy", run_id="r1", identifier=identifier())
    return found


def die(last: Callable[[], object]) -> None:
    """Do something in a process that is killed by the end of it."""
    child = os.fork()
    if child == 0:
        last()
        os._exit(0)
    os.waitpid(child, 0)


def kill_while_writing(path: Path) -> None:
    def half() -> None:
        Path.replace = lambda *_: os._exit(0)  # type: ignore[assignment,method-assign,misc]
        replace_file(path, b"half")

    die(half)


def live(store: Store, run_id: str) -> Path:
    return store.root / "live" / f"{run_id}.json"


def kill_run(store: Store, run_id: str, name: str = "toy", started: float | None = None) -> Path:
    """A run that began and was killed; returns what it left."""
    status = begin(run_id, name, ["a"], {}, "lumina run toy")
    status.started = started or status.started
    die(lambda: StatusFile(NoDisplay(), store, status).__enter__())
    return live(store, run_id)


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def test_half_written_files_go_once_nobody_can_be_writing_them(store: Store) -> None:
    for folder in FOLDERS:
        kill_while_writing(store.root / folder / "x.json")
    partial = sorted(path for folder in FOLDERS for path in (store.root / folder).glob(".x.json.*"))
    assert len(partial) == len(FOLDERS)
    assert not find_garbage(store, Policy()).remove
    for path in partial:
        age(path, 1.1)
    found = collect(store, Policy())
    assert [(item.what, store.root / item.path, item.bytes) for item in found.remove] == [
        ("partial", path, 4) for path in partial
    ]
    assert not any(path.exists() for path in partial)
    assert store.get_run("toy").run == "r1"


def test_how_a_killed_run_stood_is_kept_while_somebody_may_go_on_with_it(store: Store) -> None:
    left = kill_run(store, "r2")
    found = collect(store, Policy(older_than_days=1))
    assert not found.remove
    assert [(item.what, item.why) for item in found.left] == [
        ("status", "of a run that was killed: `lumina status` says how to go on")
    ]
    assert read_status(store, "r2").standing == "killed"
    age(left, 2)
    assert not collect(store, Policy()).remove
    assert [item.why for item in collect(store, Policy(older_than_days=1)).remove] == [
        "of a run that was killed long ago"
    ]
    assert not left.exists()


def test_it_goes_when_another_run_of_the_name_came_after_it(store: Store) -> None:
    first, second, other = kill_run(store, "r0", started=1.0), kill_run(store, "r2"), kill_run(store, "r3", "other")
    with StatusFile(NoDisplay(), store, begin("r4", "other", ["a"], {}, "")):
        assert [item.path for item in collect(store, Policy()).remove] == ["live/r0.json", "live/r3.json"]
        assert live(store, "r4").exists()
    assert (first.exists(), second.exists(), other.exists()) == (False, True, False)
    run(diamond(), store, EXECUTE, name="toy", run_id="r2", identifier=identifier())
    assert [item.why for item in collect(store, Policy()).remove] == ["the record of the run says how it ended"]


@pytest.mark.parametrize("text", ["", "[]", '{"name": "toy"}', "\0"])
def test_what_cannot_be_read_goes_once_it_is_old(store: Store, text: str) -> None:
    path = live(store, "r2")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert "cannot be read" in find_garbage(store, Policy()).left[0].why
    age(path, 1.1)
    assert [item.path for item in collect(store, Policy()).remove] == ["live/r2.json"]


def test_the_command_counts_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for run_id in ("r2", "r3", "r4"):
        kill_run(store, run_id)
    kill_while_writing(store.root / "latest" / "toy")
    [partial] = (store.root / "latest").glob(".*")
    age(partial, 2)
    done = CliRunner().invoke(cli.app, ["gc", "--store", str(store.root)])
    assert "1 half-written file, 2 statuses of killed runs, " in done.output
    assert "live/r4.json" in done.output
    removed = json.loads(CliRunner().invoke(cli.app, ["gc", "--yes", "--json", "--store", str(store.root)]).output)
    assert [item["what"] for item in removed["remove"]] == ["partial", "status", "status"]
