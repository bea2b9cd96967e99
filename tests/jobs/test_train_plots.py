"""What a stage shows: late bins, where coarse scales start to lose, a summary, and charts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train_plots import charts, crossing, draw, late_bins, summary
from lumina.training.metrics import T_BINS
from lumina.training.stage import TaskConfig
from tests.lumina.training import toy

MIDDLE = TaskConfig(name="middle", media="video", patch=(2, 2, 2), time_shift=4.0, batch_size=4)
CONFIG = toy.stage(steps=100, tasks=(toy.IMAGE, toy.COARSE, toy.FINE, MIDDLE)).model_dump(mode="json")


def _finest(t: float) -> float:
    return 0.2 + 0.5 * t**4


def _row(step: int, level: float = 1.0, count: float = 10.0) -> dict[str, float]:
    """A line of metrics: the middle scale loses from t = 0.6 on, the coarse one from 0.3 on."""
    row = {"step": step, "seconds_per_step": 0.5, "tokens_per_second": 100.0, "data_share": 0.01}
    for task, lost_from in (("image", 1.0), ("fine", 1.0), ("middle", 0.6), ("coarse", 0.3)):
        row[f"loss/{task}"] = level * 2.0
        for index in range(T_BINS):
            t = (index + 0.5) / T_BINS
            factor = 1.5 if t > lost_from else 1.05
            row[f"t_bin/{task}/{index:02d}"] = level * factor * _finest(t)
            row[f"t_count/{task}/{index:02d}"] = count
    return row


def test_coarse_scales_lose_in_the_order_of_figure_3() -> None:
    found = summary([_row(step) for step in range(10, 101, 10)], CONFIG)
    crossings = {key: value for key, value in found.items() if key.startswith("train/crossing_t/")}
    assert crossings == {"train/crossing_t/coarse": 0.3, "train/crossing_t/middle": 0.6}


def test_bins_are_those_of_the_last_fifth_weighted_by_their_samples() -> None:
    early = [_row(step, level=9.0) for step in (20, 40, 60, 80)]
    rows = [*early, _row(90, level=1.0, count=30.0), _row(95, level=5.0), {"step": 100.0}]
    assert late_bins(rows, ["fine"])["fine"][0] == pytest.approx(2.0 * 1.05 * _finest(0.025))
    assert summary(rows, CONFIG)["train/crossing_t/middle"] == 0.6


@given(st.integers(0, T_BINS), st.integers(0, T_BINS - 1), st.floats(1e-3, 1e3))
def test_one_noisy_bin_moves_the_crossing_by_two_bins_at_most(edge: int, noisy: int, level: float) -> None:
    finest = dict.fromkeys(range(T_BINS), level)
    coarse = {index: level * (1.3 if index >= edge else 1.0) for index in range(T_BINS)}
    clean = crossing(finest, coarse)
    assert clean == (None if edge == T_BINS else edge / T_BINS)
    coarse[noisy] = level * (1.0 if noisy >= edge else 1.3)
    found = crossing(finest, coarse)
    assert abs((1.0 if found is None else found) - edge / T_BINS) < 2.01 / T_BINS


def test_a_scale_without_bins_in_common_has_no_crossing() -> None:
    assert crossing({0: 1.0}, {1: 2.0}) is None
    assert crossing({}, {}) is None


def test_the_summary_takes_ends_the_last_validation_and_the_pace() -> None:
    rows = [_row(step, level=200.0 / step) for step in range(5, 101, 5)]
    rows[8] |= {"val/fine": 3.0, "val/fine/web": 4.0, "val_t/fine/0.1": 5.0}
    rows[9] |= {"val/fine": 1.0, "val/fine/web": 2.0}
    for row in rows:
        del row["loss/middle"]
    rows[5]["loss/middle"] = 1.0
    found = summary(rows, CONFIG)
    assert found["train/first_loss/fine"] == pytest.approx((80 + 40) / 2)
    assert found["train/last_loss/fine"] == pytest.approx((400 / 95 + 4) / 2)
    assert found["train/val/fine"] == 1.0
    assert found["train/val/fine/web"] == 2.0
    assert found["train/tokens_per_second"] == 100.0
    # Tasks of a small ratio, and numbers that nobody measured.
    assert not {"train/last_loss/middle", "train/flop_utilisation", "train/val_t/fine/0.1"} & set(found)


def test_a_stage_of_one_scale_has_nothing_to_compare() -> None:
    config = toy.stage(steps=100, tasks=(toy.IMAGE,)).model_dump(mode="json")
    rows = [_row(100)]
    assert not [key for key in summary(rows, config) if "crossing" in key]
    assert [line.mark for chart in charts("train", rows, config) for line in chart.lines] == [None, None]


def test_the_page_shows_every_scale_in_its_colour(tmp_path: Path) -> None:
    rows = [_row(step, level=200.0 / step) for step in range(10, 101, 10)]
    rows[4] |= {"val/fine": 3.0, "val/image": 2.0}
    losses, by_t = charts("train@1", rows, CONFIG)
    assert [(line.name, line.color, line.dashed, len(line.dots)) for line in losses.lines] == [
        ("image", 0, True, 1), ("coarse", 2, False, 0), ("fine", 0, False, 1), ("middle", 1, False, 0)
    ]  # fmt: skip
    assert {line.name: line.note for line in by_t.lines if line.note} == {
        "coarse": "loses from t = 0.3", "middle": "loses from t = 0.6"
    }  # fmt: skip
    [name] = draw("train@1", rows, CONFIG, tmp_path)
    page = (tmp_path / name).read_text(encoding="utf-8")
    assert page.count("<polyline") == 8
    assert page.count('class="point') == 2
    # A scale keeps its colour where a stage trains on it alone.
    alone = charts("train@2", rows, toy.stage(tasks=(MIDDLE,)).model_dump(mode="json"))
    assert {line.color for chart in alone for line in chart.lines} == {1}
