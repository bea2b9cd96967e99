"""A process that starts a cluster for another one: what it says is heard, and whatever it does, it can be ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs import head
from jobs.head import Head, NotStartedError

HANGS = "subprocess.Popen(['sleep', '600']); time.sleep(600)"


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Head]:
    """Starts a script in place of Ray's."""

    def begun(script: str) -> Head:
        path = tmp_path / "script.py"
        path.write_text(f"import os, signal, subprocess, sys, time\n{script}\n")
        monkeypatch.setattr(head, "_SCRIPT", path)
        return Head({}, os.environ)

    return begun


def until(seconds: float) -> float:
    return time.monotonic() + seconds


def test_the_address_is_told_and_closing_ends_it(begin: Callable[[str], Head]) -> None:
    found = begin('print(\'{"address": "10.0.0.1:6379"}\', flush=True); sys.stdin.read()')
    assert found.address(until(60)) == "10.0.0.1:6379"
    found.close()
    assert not psutil.pid_exists(found._process.pid)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('print(\'{"error": "ConnectionError: nobody\\\\n there"}\', flush=True)', "ConnectionError: nobody there"),
        ("sys.stderr.write('why\\nbad_alloc\\n\\n'); sys.exit(3)", r"ended with exit code 3 \(bad_alloc\)"),
        ("os.write(2, b'caf\\xe9\\n'); sys.exit(1)", r"ended with exit code 1 \(caf\\xe9\)"),
        ("os.kill(os.getpid(), 9)", "its process ended with signal 9$"),
    ],
)
def test_what_keeps_it_from_starting_is_told(begin: Callable[[str], Head], script: str, said: str) -> None:
    found = begin(script)
    with pytest.raises(NotStartedError, match=said):
        found.address(until(60))
    found.kill()


@pytest.mark.parametrize("script", [HANGS, f"os.write(1, b'{{'); {HANGS}"])
def test_what_hangs_is_given_up_and_killed_with_all_that_it_started(begin: Callable[[str], Head], script: str) -> None:
    found = begin(script)
    root = psutil.Process(found._process.pid)
    deadline = until(60)
    while not (below := root.children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    below[0].suspend()
    with pytest.raises(TimeoutError):
        found.address(until(0.1))
    found.kill()
    assert not psutil.wait_procs([root, *below], timeout=30)[1]
