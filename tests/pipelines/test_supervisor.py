"""The supervisor of a run outlives its driver: it says what ended it, goes on once, and leaves no process behind."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.engine.store.lease import process_start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are supervised on Linux only")

BEGIN = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
import typer
from pipelines.supervisor import supervise

def note(text):
    with open("notes", "a") as file:
        file.write(f"{text}\\n")

def server():
    return subprocess.Popen(["sleep", "600"])

try:
    with supervise() as link:
        number = len(Path("notes").read_text().split()) + 1 if Path("notes").exists() else 1
        note(os.getpid())
        link.command("lumina run demo")
        {body}
except typer.Exit as end:
    sys.exit(end.exit_code)
"""
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a supervised program with this as its driver's body; at the end nothing of it may be left."""
    begun = []

    def go(body: str) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(BEGIN.replace("{body}", body.strip().replace("\n", "\n        ")))
        paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        begun.append(process)
        return process

    yield go
    for process in begun:
        process.kill()
        process.communicate()
    for pid in drivers(tmp_path):
        assert process_start(pid) is None


def drivers(folder: Path) -> list[int]:
    """The drivers so far."""
    notes = folder / "notes"
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def driver(folder: Path) -> int:
    """The first driver, once there is one."""
    deadline = time.monotonic() + 60
    while not drivers(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return drivers(folder)[0]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said."""
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.parametrize("code", [0, 1, 7])
def test_what_ends_by_itself_ends_the_supervisor_alike(start: Start, code: int, tmp_path: Path) -> None:
    found = start(f"print('done'); sys.exit({code})")
    assert ended(found) == (code, "done\n")
    assert len(drivers(tmp_path)) == 1


LOSES_A_SERVER = """
one = server()
link.cluster("127.0.0.1:1", {"GCS": one.pid}, "/logs")
if number <= LOSSES:
    one.kill()
    one.wait()
    assert link.lost.wait(30)
    print("stopped", number, flush=True)
    link.leave()
print("went on", flush=True)
"""


def test_after_the_loss_of_a_server_another_driver_goes_on(start: Start, tmp_path: Path) -> None:
    code, said = ended(start(LOSES_A_SERVER.replace("LOSSES", "1")))
    assert code == 0
    first, second, third = said.splitlines()
    assert (first, third) == ("stopped 1", "went on")
    assert second.startswith("Ray's GCS (process ")
    assert second.endswith(") ended while the run needed it: Ray is started again, once, and the run goes on.")
    assert len(drivers(tmp_path)) == 2


def test_a_second_loss_is_the_last(start: Start, tmp_path: Path) -> None:
    code, said = ended(start(LOSES_A_SERVER.replace("LOSSES", "5")))
    assert code == 1
    *_, last, what, command = said.splitlines()
    assert "ended while the run needed it: memory is " in last
    assert "/logs" in last
    assert what == "What is done is kept. Once the cause is mended, the same command continues:"
    assert command == "  lumina run demo"
    assert len(drivers(tmp_path)) == 2


def test_a_driver_that_does_not_stop_is_killed(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = LOSES_A_SERVER.replace("LOSSES", "1").replace("link.leave()", "time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Imported by every Python that starts: the supervisor waits as long as its module says.
    (tmp_path / "sitecustomize.py").write_text("import pipelines.supervisor as s; s._STOP_S = 0.5\n")
    code, said = ended(start(body))
    assert (code, said.splitlines()[-1]) == (0, "went on")
    assert len(drivers(tmp_path)) == 2


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGABRT)"])
def test_a_driver_that_native_code_ends_is_followed_by_one_other(start: Start, tmp_path: Path, end: str) -> None:
    body = f"one = server()\nlink.cluster('127.0.0.1:1', {{'GCS': one.pid}}, '/logs')\n{end}"
    code, said = ended(start(body))
    assert code == (1 if "_exit" in end else 128 + signal.SIGABRT)
    again, last, _, _ = said.splitlines()
    how = "with exit code 1" if "_exit" in end else "by SIGABRT"
    assert f"the process of the run ended {how}, from inside a library" in again
    assert again.endswith("Ray is started again, once, and the run goes on.")
    assert "memory is " in last
    assert len(drivers(tmp_path)) == 2


def test_a_cluster_elsewhere_that_is_gone_is_named_and_not_started(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        there = ended(start(f"link.cluster('{address}', {{}}, '/logs'); os._exit(1)"))
    gone = ended(start(f"link.cluster('{address}', {{}}, '/logs'); os._exit(1)"))
    assert (there[0], gone[0]) == (1, 1)
    assert there[1].startswith("the process of the run ended with exit code 1, from inside a library")
    assert gone[1].splitlines() == [
        f"the Ray cluster at {address} does not answer any more: see that its head runs",
        "What is done is kept. Once the cause is mended, the same command continues:",
        "  lumina run demo",
    ]
    assert len(drivers(tmp_path)) == 2


def test_a_driver_that_is_killed_stays_dead_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    started = start("one = server()\nlink.cluster('a:1', {'GCS': one.pid}, '/logs')\nnote(one.pid)\ntime.sleep(600)")
    killed = driver(tmp_path)
    while len(drivers(tmp_path)) < 2:
        time.sleep(0.02)
    os.kill(killed, signal.SIGKILL)
    code, said = ended(started)
    assert code == 128 + signal.SIGKILL
    assert said.startswith("the process of the run was killed from outside: memory is ")
    # The fixture looks at the server, too, which nobody but the supervisor ends.
    assert len(drivers(tmp_path)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_driver(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    body = f"signal.signal({int(number)}, lambda *_: os._exit(130))\nprint('ready', flush=True)\ntime.sleep(600)"
    started = start(body)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(number)
    assert ended(started) == (130, "")


def test_a_driver_that_was_asked_to_stop_and_broke_is_not_started_again(start: Start, tmp_path: Path) -> None:
    started = start("""
one = server()
link.cluster('', {'GCS': one.pid}, '/logs')
def end(*_):
    one.kill()
    one.wait()
    time.sleep(1)
    os.abort()
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
time.sleep(600)
""")
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGTERM)
    code, said = ended(started)
    assert (code, len(drivers(tmp_path))) == (128 + signal.SIGTERM, 1)
    assert said.startswith("the run was asked to stop, and ended without its last words")
    assert "lumina run demo" in said


def test_without_its_supervisor_a_driver_ends(start: Start, tmp_path: Path) -> None:
    started = start("time.sleep(600)")
    child = psutil.Process(driver(tmp_path))
    started.kill()
    child.wait(30)


def test_where_output_goes_elsewhere_the_process_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.supervisor import supervise

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with supervise() as link:
        link.command("lumina run demo")
        assert not link.lost.is_set()
