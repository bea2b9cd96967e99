"""The metrics file: no step twice, readable while it grows."""

from __future__ import annotations

from pathlib import Path

from lumina.training.metrics import MetricsFile, read_metrics


def test_a_resumed_run_drops_the_lines_behind_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in (10, 20, 30):
        first.write(step, {"loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in read_metrics(path)] == [10, 20, 30]
    inode = path.stat().st_ino
    second = MetricsFile(path, 20)
    assert path.stat().st_ino != inode
    second.write(30, {"loss": 2.0})
    assert read_metrics(path) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.05}, {"step": 30, "loss": 2.0}]
