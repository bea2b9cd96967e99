"""`lumina run` whose Ray dies under it goes on by itself, once; its last lines, status and processes are in order."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from pipelines.engine.store.store import Store
from pipelines.reports.status import read_status
from tests.ray_nodes import kill_tree, lumina, processes


@pytest.mark.ray
def test_a_run_goes_on_after_its_servers_were_killed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ["demo", "--until", "probe", "--store", str(store)]
    words += ["-o", "data.shapes.clips={synthetic: 2, web: 2}", "-o", "data.shapes.images={web: 2}"]
    driver = subprocess.Popen(
        lumina(tmp_path, "run", *words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    below: list[psutil.Process] = []
    try:
        assert driver.stdout is not None
        for line in driver.stdout:
            lines.append(line)
            if "▶ render_shapes" in line and not below:
                below = psutil.Process(driver.pid).children(recursive=True)
                [server] = processes(driver.pid, "gcs/gcs_server")
                server.kill()
        assert driver.wait(60) == 0, "".join(lines)
    finally:
        kill_tree(driver)
    said = "".join(lines)
    [line] = [line for line in lines if line.startswith("Ray's ")]
    assert line.startswith(f"Ray's GCS (process {server.pid}) ")
    assert line.endswith(" ended while the run needed it: Ray is started again, once, and the run goes on.\n")
    assert "3 stages done" in said
    assert "[2026" not in said  # Ray's own words
    assert not psutil.wait_procs(below, timeout=0)[1]
    assert read_status(Store(store), None).standing == "done"
