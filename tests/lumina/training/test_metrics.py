"""Means and bins over workers and reports; the metrics file: no step twice, readable while it grows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumina.files import read_jsonl
from lumina.flow_matching.path import Losses
from lumina.training.metrics import (
    BIN_REPORTS,
    LossMeter,
    MetricsFile,
    bins_due,
    curve_points,
    mean_bins,
)

CPU = torch.device("cpu")


def _losses(*values: float) -> Losses:
    task = torch.tensor(values)
    return Losses(total=task + 1, task=task, direction=torch.ones_like(task))


def test_a_resumed_run_drops_the_lines_behind_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in (10, 20, 30):
        first.write(step, {"loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in read_jsonl(path)] == [10, 20, 30]
    inode = path.stat().st_ino
    second = MetricsFile(path, 20)
    assert path.stat().st_ino != inode
    second.write(30, {"loss": 2.0})
    assert read_jsonl(path) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.05}, {"step": 30, "loss": 2.0}]


def test_a_report_has_means_and_leaves_out_a_task_that_took_no_part() -> None:
    meter = LossMeter(["a", "rare"], CPU)
    meter.add(0, _losses(1.0, 2.0), torch.tensor([0.1, 0.9]))
    meter.add(0, _losses(6.0), torch.tensor([0.9]))
    meter.add_step(torch.tensor(4.0))
    meter.add_step(torch.tensor(2.0))
    assert meter.report() == {"loss": 4.0, "loss/a": 4.0, "mse/a": 3.0, "vd/a": 1.0, "grad_norm": 3.0}


def test_bins_of_several_reports_count_every_sample_once() -> None:
    meter = LossMeter(["a"], CPU)
    rows = []
    # 1.0 can come out of float32 arithmetic for a time just below 1.
    for batch in ([(0.01, 1.0), (0.04, 2.0), (0.5, 8.0)], [(0.02, 6.0)], [(1.0, 5.0)]):
        times, values = zip(*batch, strict=True)
        meter.add(0, _losses(*values), torch.tensor(times))
        rows.append(meter.report_bins())
    assert rows[0] == {"t_bin/a/00": 1.5, "t_count/a/00": 2.0, "t_bin/a/10": 8.0, "t_count/a/10": 1.0}
    assert mean_bins(rows, "a") == {0: 3.0, 10: 8.0, 19: 5.0}
    assert mean_bins(rows, "b") == {}
    assert curve_points({"step": 1, "loss": 2.0, **rows[1]}) == {"loss": 2.0, "t_bin/a/00": 6.0}


@given(st.integers(1, 500), st.integers(1, 60))
def test_bins_are_reported_a_bounded_number_of_times_and_at_the_end(steps: int, log_every: int) -> None:
    logged = [step for step in range(1, steps + 1) if step % log_every == 0 or step == steps]
    due = [step for step in logged if bins_due(step, steps, log_every)]
    assert due[-1] == steps
    assert len(due) <= BIN_REPORTS
    assert len(due) == len({(step - 1) * BIN_REPORTS // steps for step in logged})


def test_the_demo_reports_bins_of_late_steps_alone() -> None:
    assert [step for step in range(10, 101, 10) if bins_due(step, 100, 10)] == list(range(10, 101, 10))
    assert [step for step in range(10, 2901, 10) if bins_due(step, 2900, 10)][-5:] == [2320, 2460, 2610, 2750, 2900]


@pytest.mark.parametrize("saved", [True, False])
def test_a_restored_meter_goes_on(saved: bool) -> None:
    meter = LossMeter(["a"], CPU)
    meter.add(0, _losses(1.0), torch.tensor([0.1]))
    other = LossMeter(["a"], CPU)
    if saved:
        other.restore(meter.state())
    for each in (meter, other):
        each.add(0, _losses(3.0), torch.tensor([0.1]))
        each.add_step(torch.tensor(1.0))
    assert other.report()["mse/a"] == (2.0 if saved else 3.0)
    assert other.report_bins()["t_count/a/02"] == (2.0 if saved else 1.0)
