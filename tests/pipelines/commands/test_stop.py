"""`lumina run` that is told to end while Ray starts."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.ray_nodes import kill_tree, lumina


@pytest.mark.ray
@pytest.mark.parametrize("seconds", [0.1, 1.5])
def test_who_is_told_to_end_while_ray_starts_says_how_to_go_on(tmp_path: Path, seconds: float) -> None:
    """At the time given after the start: Ray is imported first, and then takes SIGTERM for itself."""
    store = tmp_path / "store"
    command = lumina(tmp_path, "run", "demo", "--until", "render_shapes", "--store", str(store))
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert driver.stdout is not None
        said = ""
        while "starting Ray" not in said:
            said += driver.stdout.readline()
            assert driver.poll() is None, said
        time.sleep(seconds)
        driver.send_signal(signal.SIGTERM)
        said += driver.communicate(timeout=120)[0]
    finally:
        kill_tree(driver)
    assert driver.returncode == 130, said
    assert "Stopped. Nothing is lost: the same command continues where it was:" in said
    assert said.splitlines()[-1] == f"  lumina run demo --store {store} --until render_shapes"
    assert not list(store.glob("stages/*/*/LEASE.json"))
