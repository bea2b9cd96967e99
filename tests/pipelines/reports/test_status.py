"""Where a run stands, as another terminal sees it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.events import NoDisplay
from pipelines.engine.runner import run
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError
from pipelines.reports import status
from pipelines.reports.status import StatusFile, begin, read_status
from tests.pipelines.toy import EXECUTE, diamond, identifier

DRIVER = """
import sys
from jobs.runtime import RuntimeConfig
from pipelines.engine.events import NoDisplay
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.reports import status
from pipelines.reports.status import StatusFile, begin
from pipelines.engine.store.bucket import Bucket
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, identifier, stage
store = Store(sys.argv[1])
store.prepare()
line = Pipeline("line", (stage("a"), stage("slow", sleep=60.0, inputs=("a",)), stage("last", inputs=("slow",))))
upstream = {one.name: list(one.inputs.values()) for one in line.order}
status = begin("r1", "line", list(upstream), upstream, "lumina run line")
with StatusFile(NoDisplay(), store, status) as display:
    display.link("Ray", "http://127.0.0.1:8265")
    run(line, store, EXECUTE, run_id="r1", display=display, identifier=identifier())
"""


class Told(NoDisplay):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """A line for the user."""
        self.notes.append(text)


def shown(store: Path | str, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["status", "--store", str(store), *arguments])
    return done.exit_code, done.output


def test_a_run_at_work_and_one_that_was_killed(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.2)
        if (tmp_path / "live" / "r1.json").is_file() and read_status(Store(tmp_path), None).stages["slow"].done:
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
        assert (tmp_path / "live" / "r2.json").is_file()
        run(diamond(), store, EXECUTE, run_id="r2", display=display, identifier=identifier())
    assert not (tmp_path / "live" / "r2.json").exists()
    found = read_status(store, "r2")
    assert (found.standing, {row.state for row in found.stages.values()}) == ("done", {"done"})
    assert shown(tmp_path)[0] == 0


@pytest.mark.parametrize(("silent_s", "standing", "code"), [(20, "running", 0), (720, "silent", 1)])
def test_a_run_whose_process_is_there_but_says_nothing_is_not_called_running(
    tmp_path: Path, silent_s: float, standing: str, code: int
) -> None:
    store = Store(tmp_path)
    store.prepare()
    file = StatusFile(NoDisplay(), store, begin("r9", "diamond", ["a"], {}, "lumina run diamond"))
    with file.waiting_for("starting Ray"):
        file._write()
    told = tmp_path / "live" / "r9.json"
    heard = time.time() - silent_s
    since = {"heard": heard, "awaits_since": heard - 40}
    told.write_text(json.dumps(json.loads(told.read_text()) | since))
    assert json.loads(shown(tmp_path, "--json")[1])["standing"] == standing
    exit_code, text = shown(tmp_path)
    assert exit_code == code
    text = " ".join(text.split())
    assert f"r9 (diamond) {standing} on {file.status.host}, process {file.status.pid}, starting Ray, " in text
    said = rf"silent for 12 min \d\d s: process {file.status.pid} is there, but it may hang"
    assert bool(re.search(said, text)) == (standing == "silent")
    # A run that goes on says so again.
    file._write()
    assert read_status(store, "r9").awaits == ""
    assert read_status(store, "r9").standing == "running"


def test_watching_ends_with_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    status = begin("r3", "diamond", ["a", "b", "c", "d"], {}, "")

    def work() -> None:
        with StatusFile(NoDisplay(), store, status) as display:
            run(diamond(), store, EXECUTE, run_id="r3", display=display, identifier=identifier())
            time.sleep(1)

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "live" / "r3.json").is_file():
        time.sleep(0.05)
    code, text = shown(tmp_path, "--watch")
    thread.join()
    assert code == 0
    assert "r3 (diamond) done" in text


def test_what_failed_is_named(tmp_path: Path) -> None:
    from pipelines.engine.stage import Pipeline
    from tests.pipelines.toy import stage

    store = Store(tmp_path)
    line = Pipeline("line", (stage("bad", "fail"), stage("after", inputs=("bad",))))
    run(line, store, EXECUTE, run_id="r4", identifier=identifier())
    code, text = shown(tmp_path)
    assert code == 1
    assert "bad: RuntimeError: no luck with row 7" in text


def test_a_run_elsewhere_is_seen_through_its_bucket(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, laptop = (open_store(s3_store, tmp_path / name) for name in ("cluster", "laptop"))
    cluster.prepare()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "head-node")
        file = StatusFile(NoDisplay(), cluster, begin("r6", "diamond", ["a", "b", "c", "d"], {}, "lumina run diamond"))
    with file as display:
        found = read_status(laptop, "diamond")
        assert (found.run, found.standing, found.host) == ("r6", "running", "head-node")
        assert shown(s3_store)[0] == 0
        record = laptop.objects.read("live/r6.json")
        assert record is not None
        for silent_s, standing in ((45, "running"), (75, "killed")):
            heard = {"heard": time.time() - silent_s}
            laptop.objects.put("live/r6.json", json.dumps(json.loads(record.text) | heard))
            assert read_status(laptop, None).standing == standing
        assert "its process is gone, or head-node is cut off" in shown(s3_store)[1]
        run(diamond(), cluster, EXECUTE, run_id="r6", display=display, identifier=identifier())
    assert not laptop.objects.entries("live")
    assert read_status(laptop, None).standing == "done"
    laptop.objects.put("live/x.json", "[]")
    with pytest.raises(StoreError, match=r"some/prefix/live/x\.json is damaged"):
        read_status(laptop, None)


def test_a_bucket_that_cannot_be_reached_for_a_moment_stops_nothing(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    store = open_store(s3_store, tmp_path / "cluster")
    away = threading.Event()
    put, remove = Bucket.put, Bucket.remove

    def unless_away(change: Callable[..., None], self: Bucket, key: str, *content: str, **options: bool) -> None:
        if away.is_set() and key.startswith("live/"):
            raise StoreError(f"{self.name(key)}: nobody answers")
        change(self, key, *content, **options)

    monkeypatch.setattr(Bucket, "put", partialmethod(lambda self, *args, **sync: unless_away(put, self, *args, **sync)))
    monkeypatch.setattr(Bucket, "remove", partialmethod(lambda self, *args: unless_away(remove, self, *args)))
    monkeypatch.setattr(Bucket, "every_s", 0.05)
    away.set()
    with StatusFile(told, store, begin("r7", "diamond", ["a", "b", "c", "d"], {}, "")) as display:
        time.sleep(0.3)
        assert run(diamond(), store, EXECUTE, run_id="r7", display=display, identifier=identifier()).ok
        assert [note for note in told.notes if "live/r7.json" in note] == [
            f"{store.objects.name('live/r7.json')}: nobody answers: until it can be written, `lumina status` will not "
            "see this run"
        ]
        away.clear()
        while not store.objects.entries("live"):
            time.sleep(0.05)
        away.set()
    assert told.notes[-1].endswith("nobody answers: `lumina status` may show an old state")


def test_a_bucket_that_hangs_holds_nothing_up(s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    store = open_store(s3_store, tmp_path / "cluster")
    answers = threading.Event()
    monkeypatch.setattr(Bucket, "put", lambda *_: answers.wait(60))
    monkeypatch.setattr(status, "_END_S", 0.2)
    begun = time.monotonic()
    with StatusFile(told, store, begin("r8", "diamond", ["a"], {}, "")) as display:
        display.stage("a", "running")
        display.progress("a", 1, 2, "steps")
    assert time.monotonic() - begun < 5
    answers.set()
    assert told.notes == ["the store does not answer for 0.2 s: `lumina status` may show an old state"]


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    told = Told()
    store = Store(tmp_path)
    store.prepare()
    (tmp_path / "live").write_text("a file where the folder should be")
    file = StatusFile(told, store, begin("r5", "diamond", ["a"], {}, ""))
    file._write()
    file._write()
    assert len(told.notes) == 1
    assert "`lumina status` will not see this run" in told.notes[0]


def test_without_runs_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run yet"):
        read_status(Store(tmp_path), None)
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "x.json").write_text("{")
    with pytest.raises(StoreError, match=r"x\.json is damaged"):
        read_status(Store(tmp_path), None)
