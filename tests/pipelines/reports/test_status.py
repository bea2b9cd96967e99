"""Where a run stands, as another terminal sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.runtime import RuntimeConfig
from pipelines import cli
from pipelines.dag.events import NoDisplay
from pipelines.dag.runner import run
from pipelines.errors import StoreError
from pipelines.reports.status import StatusFile, begin, live_path, read_status
from pipelines.storage.store import Store
from tests.pipelines.toy import diamond, identifier

DRIVER = """
import sys
from jobs.runtime import RuntimeConfig
from pipelines.dag.events import NoDisplay
from pipelines.dag.runner import run
from pipelines.dag.stage import Pipeline
from pipelines.reports.status import StatusFile, begin
from pipelines.storage.store import Store
from tests.pipelines.toy import identifier, stage
store = Store(sys.argv[1])
store.prepare()
line = Pipeline("line", (stage("a"), stage("slow", sleep=60.0, inputs=("a",)), stage("last", inputs=("slow",))))
upstream = {one.name: list(one.inputs.values()) for one in line.order}
status = begin("r1", "line", list(upstream), upstream, "lumina run line")
with StatusFile(NoDisplay(), store, status) as display:
    display.link("Ray", "http://127.0.0.1:8265")
    run(line, store, RuntimeConfig(), run_id="r1", display=display, identifier=identifier())
"""


def shown(store: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["status", "--store", str(store), *arguments])
    return done.exit_code, done.output


def test_a_run_at_work_and_one_that_was_killed(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.2)
        if live_path(Store(tmp_path), "r1").is_file() and read_status(Store(tmp_path), None).stages["slow"].done:
            break
    code, text = shown(tmp_path)
    assert code == 0
    assert f"r1 (line) running on {read_status(Store(tmp_path), None).host}, process {driver.pid}" in text
    assert "1/3 steps" in text
    assert "next: last after slow" in text
    assert "http://127.0.0.1:8265" in text
    code, text = shown(tmp_path, "line", "--json")
    assert json.loads(text)["standing"] == "running"
    driver.kill()
    driver.wait()
    code, text = shown(tmp_path)
    assert code == 1
    assert "r1 (line) killed" in text
    assert "its process is gone" in text
    assert "The same command continues it:\n  lumina run line" in text


def test_the_file_goes_with_the_run_and_the_record_tells(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    status = begin("r2", "diamond", ["a", "b", "c", "d"], {}, "lumina run diamond")
    with StatusFile(NoDisplay(), store, status) as display:
        assert live_path(store, "r2").is_file()
        run(diamond(), store, RuntimeConfig(), run_id="r2", display=display, identifier=identifier())
    assert not live_path(store, "r2").exists()
    found = read_status(store, "r2")
    assert (found.standing, {row.state for row in found.stages.values()}) == ("done", {"done"})
    assert shown(tmp_path)[0] == 0


def test_watching_ends_with_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    status = begin("r3", "diamond", ["a", "b", "c", "d"], {}, "")

    def work() -> None:
        with StatusFile(NoDisplay(), store, status) as display:
            run(diamond(), store, RuntimeConfig(), run_id="r3", display=display, identifier=identifier())
            time.sleep(1)

    thread = threading.Thread(target=work)
    thread.start()
    while not live_path(store, "r3").is_file():
        time.sleep(0.05)
    code, text = shown(tmp_path, "--watch")
    thread.join()
    assert code == 0
    assert "r3 (diamond) done" in text


def test_what_failed_is_named(tmp_path: Path) -> None:
    from pipelines.dag.stage import Pipeline
    from tests.pipelines.toy import stage

    store = Store(tmp_path)
    line = Pipeline("line", (stage("bad", "fail"), stage("after", inputs=("bad",))))
    run(line, store, RuntimeConfig(), run_id="r4", identifier=identifier())
    code, text = shown(tmp_path)
    assert code == 1
    assert "bad: RuntimeError: no luck with row 7" in text


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    told: list[str] = []

    class Told(NoDisplay):
        def note(self, text: str) -> None:
            told.append(text)

    store = Store(tmp_path)
    store.prepare()
    (tmp_path / "live").write_text("a file where the folder should be")
    file = StatusFile(Told(), store, begin("r5", "diamond", ["a"], {}, ""))
    file._write()
    file._write()
    assert len(told) == 1
    assert "`lumina status` will not see this run" in told[0]


def test_without_runs_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run yet"):
        read_status(Store(tmp_path), None)
    live_path(Store(tmp_path), "x").parent.mkdir()
    live_path(Store(tmp_path), "x").write_text("{")
    with pytest.raises(StoreError, match=r"x\.json is damaged"):
        read_status(Store(tmp_path), None)
