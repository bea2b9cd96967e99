"""`lumina run` whose Ray hangs while it starts: it is seen, can be stopped, ends by itself, and leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines.engine.store.store import Store
from pipelines.reports.status import RunStatus, read_status
from tests.ray_nodes import kill_tree, lumina, processes


def wait_for(found: Callable[[], object], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hanging(store: Path, driver: subprocess.Popen[str]) -> tuple[list[psutil.Process], RunStatus]:
    """Stop Ray's server as soon as it is there, and wait until the run has waited for a while; all that it started."""
    servers: list[psutil.Process] = []
    wait_for(lambda: servers.extend(processes(driver.pid, "gcs/gcs_server")) or servers, driver)  # type: ignore[arg-type]
    servers[0].suspend()
    stopped = time.time()

    def seen() -> bool:
        status = read_status(Store(store), None) if list(store.glob("live/*.json")) else None
        return status is not None and bool(status.awaits) and status.heard > stopped + 3

    wait_for(seen, driver)
    return psutil.Process(driver.pid).children(recursive=True), read_status(Store(store), None)


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None], ids=["Ctrl-C", "SIGTERM", "deadline"])
def test_a_start_that_hangs(tmp_path: Path, number: signal.Signals | None) -> None:
    store = tmp_path / "store"
    words = ["demo", "--until", "render_shapes", "--store", str(store)]
    words += ["-o", f"runtime.ray_start_s={25 if number is None else 600}"]
    command = lumina(tmp_path, "run", *words)
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        below, status = hanging(store, driver)
        assert (status.standing, status.awaits) == ("running", "starting Ray")
        if number is not None:
            driver.send_signal(number)
        said = driver.communicate(timeout=120)[0]
    finally:
        kill_tree(driver)
    assert not psutil.wait_procs(below, timeout=60)[1]
    if number is not None:
        assert driver.returncode == 130, said
        assert "Stopped. Nothing is lost: the same command continues where it was:" in said
        return
    assert driver.returncode == 1, said
    [line] = [line for line in said.split("\n") if line.startswith("render_shapes failed: ")]
    assert line.startswith("render_shapes failed: Ray did not start within 25 s: memory is ")
    assert "of memory are" not in line
    assert "GiB are available, and Ray needs about 2.0 GiB; /dev/shm has " in line
    assert read_status(Store(store), None).standing == "failed"
