"""Jobs on a real cluster of two nodes, over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.submit import (
    ENDED,
    SubmissionError,
    Work,
    connect,
    find,
    follow,
    jobs,
    look,
    stop,
    submit,
    wait_until_started,
    waits_for,
)
from jobs.tokens import FILE
from pipelines import cli
from tests.ray_nodes import ROOT, Nodes, ray_nodes

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes(2, 2, RAY_JOB_STOP_WAIT_TIME_S="60") as running:
        yield running


def work(folder: Path, name: str, code: str, **more: Any) -> Work:
    (folder / "task_of_job.py").write_text(code)
    return Work(f"lumina-{name}", folder, "python task_of_job.py", {}, {"run": name, "cpus": "1"}, **more)


def ended(client: Any, name: str) -> Any:
    deadline = time.monotonic() + 120
    while (found := find(client, name)).state not in ENDED:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def test_the_same_work_is_done_once(nodes: Nodes, tmp_path: Path) -> None:
    client = connect(nodes.dashboard)
    once = work(tmp_path, "once-1", "import time; print('first', flush=True); time.sleep(4); print('last', flush=True)")
    made: list[Any] = []
    both = [threading.Thread(target=lambda: made.append(submit(connect(nodes.dashboard), once))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(one.action for one in made) == ["attached", "started"]
    assert {one.job.id for one in made} == {"lumina-once-1-a1"}
    said: list[str] = []
    assert follow(client, made[0].job, said.append).state == "SUCCEEDED"
    assert "".join(said).count("first\n") == "".join(said).count("last\n") == 1
    assert submit(client, once).action == "reported"
    assert submit(client, once, again=True).job.id == "lumina-once-1-a2"
    assert find(client, "once-1").attempt == 2


def test_after_a_failure_comes_the_next_attempt(nodes: Nodes, tmp_path: Path) -> None:
    client = connect(nodes.dashboard)
    failing = work(tmp_path, "failing-1", "raise SystemExit('no luck with row 7')")
    assert submit(client, failing).action == "started"
    assert ended(client, "failing-1").state == "FAILED"
    assert "no luck with row 7" in find(client, "failing-1").message
    second = submit(client, failing)
    assert (second.action, second.job.id) == ("started", "lumina-failing-1-a2")
    assert "lumina-failing-1-a1" in {job.id for job in jobs(client)}


def test_a_job_is_stopped_in_good_order(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(nodes.dashboard)
    code = (
        "import signal, sys, time\n"
        "def leave(*_):\n    time.sleep(5); print('left in good order', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave); print('at work', flush=True); time.sleep(600)"
    )
    for number in range(1, 4):
        running = submit(client, work(tmp_path, f"endless-{number}", code)).job
        said: list[str] = []
        assert wait_until_started(client, running, said.append).id == find(client, f"endless-{number}").id
        if not said:
            break  # else Ray never began it
    monkeypatch.setattr(client, "list_jobs", None)  # who waits for one job has no others listed
    wait_until_started(client, running, print)
    deadline = time.monotonic() + 300
    while "at work" not in (log := client.get_job_logs(running.id)):
        assert time.monotonic() < deadline, (look(client, running.id), log)
        time.sleep(0.5)
    assert stop(client, running, 60).state == "STOPPED"
    assert "left in good order" in client.get_job_logs(running.id)
    with pytest.raises(SubmissionError, match="knows no job 'lumina-endless-1-a2'"):
        look(client, "lumina-endless-1-a2")


class _Hanging:
    """A cluster whose job runs, and of which Ray never starts the command."""

    def get_job_info(self, job: str) -> SimpleNamespace:
        state = SimpleNamespace(value="RUNNING")
        return SimpleNamespace(
            submission_id=job, status=state, message="", start_time=1, end_time=None, metadata={"run": "hanging"}
        )

    def get_job_logs(self, job: str) -> str:
        return "Runtime env is setting up.\n"


def test_a_job_that_runs_without_its_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.submit._PENDING_NOTE_S", 0.0)
    monkeypatch.setattr("jobs.submit._POLL_S", 0.01)
    client: Any = _Hanging()
    said: list[str] = []
    assert wait_until_started(client, look(client, "lumina-hanging-1-a1"), said.append).state == "RUNNING"
    [told] = said
    assert "Ray has not started its command" in told
    assert "`lumina jobs stop lumina-hanging-1-a1`, and submit again" in told


def test_a_waiting_job_says_for_what(nodes: Nodes, tmp_path: Path) -> None:
    client = connect(nodes.dashboard)
    greedy = Work("lumina-greedy-1", tmp_path, "true", {}, {"run": "greedy", "cpus": "64"}, cpus=64)
    job = submit(client, greedy).job
    expected = f"{job.id} waits for 64 CPU on one node; the most that any of 2 nodes has is 2"
    assert waits_for(client, job) == expected
    with pytest.raises(SubmissionError, match=r"has is 2\. It is told to end"):
        stop(client, job, 60)


def test_a_refused_token_is_one_line_that_names_the_variable(nodes: Nodes, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    join = "from jobs import cluster, runtime; cluster.ensure(runtime.RuntimeConfig(ray_address='{}'))".format
    listing = "from pipelines.cli import main; main()", "jobs", "list", "--address", nodes.dashboard
    for words, named in (((join(nodes.address),), f"the Ray cluster at {nodes.address}"), (listing, nodes.dashboard)):
        for given, wants in (({}, "a token"), ({FILE: str(wrong)}, f"another token than that of {FILE} ({wrong})")):
            environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **given}
            told = subprocess.run(
                [sys.executable, "-c", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
            )
            assert told.returncode == 1
            assert f"{named} wants {wants}: set {FILE} to a file that" in told.stderr.splitlines()[-1]


def test_what_is_no_cluster_is_one_clear_error() -> None:
    with pytest.raises(SubmissionError, match="expected the address of Ray's dashboard"):
        connect("ray://head:10001")
    with pytest.raises(SubmissionError, match="does not answer as a Ray cluster"):
        connect("http://127.0.0.1:1")
    told = CliRunner().invoke(cli.app, ["jobs", "list", "--address", "http://127.0.0.1:1"])
    assert told.exit_code == 1
    assert told.stderr.startswith("error: http://127.0.0.1:1 does not answer as a Ray cluster")
