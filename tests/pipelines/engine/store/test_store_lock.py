from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.engine.store.store_lock import alone, in_use
from pipelines.errors import StoreError


def test_runs_share_and_a_collection_does_not(tmp_path: Path) -> None:
    with in_use(tmp_path, print), in_use(tmp_path, print), pytest.raises(StoreError, match="at work"), alone(tmp_path):
        pass
    with alone(tmp_path), pytest.raises(StoreError, match="at work"), alone(tmp_path):
        pass


def test_a_run_waits_for_a_collection_and_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    entered = threading.Event()

    def wait() -> None:
        with in_use(tmp_path, notes.append):
            entered.set()

    with alone(tmp_path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    assert len(notes) == 1


def test_the_dead_hold_nothing_and_what_they_started_neither(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path; from pipelines.engine.store.store_lock import in_use\n"
        "with in_use(Path(sys.argv[1]), print):\n"
        "    child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, flush=True)\n"
        "    os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 9
    try:
        with alone(tmp_path):
            pass
    finally:
        subprocess.run(["kill", done.stdout.strip()], check=True)
