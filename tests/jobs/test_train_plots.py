"""What a stage shows: late bins, where coarse scales start to lose, a summary, and plots that can be opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from jobs.train_plots import LOSS_BY_T, LOSSES, _style, crossing, draw, late_bins, summary
from lumina.training.metrics import T_BINS
from lumina.training.stage import TaskConfig
from tests.lumina.training import toy

MIDDLE = TaskConfig(name="middle", media="video", patch=(2, 2, 2), time_shift=4.0, batch_size=4)
CONFIG = toy.stage(steps=100, tasks=(toy.IMAGE, toy.COARSE, toy.FINE, MIDDLE))


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
    assert late_bins(rows, CONFIG)["fine"][0] == pytest.approx(2.0 * 1.05 * _finest(0.025))
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


def test_a_stage_of_one_scale_has_nothing_to_compare(tmp_path: Path) -> None:
    config = toy.stage(steps=100, tasks=(toy.IMAGE,))
    rows = [_row(100)]
    assert not [key for key in summary(rows, config) if "crossing" in key]
    assert [*draw(rows, config, tmp_path)] == [LOSS_BY_T, LOSSES]


def test_the_plots_show_every_scale_in_its_colour(tmp_path: Path) -> None:
    rows = [_row(step, level=200.0 / step) for step in range(10, 101, 10)]
    for row in rows:
        row |= {"loss/middle": row["loss/fine"] * 1.5, "loss/coarse": row["loss/fine"] * 2}
    rows[4] |= {"val/fine": 3.0, "val/image": 2.0}
    for name in draw(rows, CONFIG, tmp_path):
        image = imread(tmp_path / name)
        assert min(image.shape[:2]) >= 500
        # The three colours of the scales: blue, orange, green.
        for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):
            distance = np.abs(image[..., :3] * 255 - np.array(colour)).max(-1)
            assert (distance < 3).sum() > 200


def test_a_scale_has_its_colour_in_every_stage() -> None:
    alone = toy.stage(tasks=(MIDDLE, toy.IMAGE))
    assert _style(MIDDLE, alone) == _style(MIDDLE, CONFIG)
    assert _style(toy.IMAGE, alone)["color"] == _style(toy.FINE, CONFIG)["color"] != _style(MIDDLE, alone)["color"]
    assert _style(toy.IMAGE, alone)["linestyle"] != _style(toy.FINE, CONFIG)["linestyle"]
