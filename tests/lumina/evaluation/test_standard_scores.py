"""Figures of unlike spread weigh alike once they are standardised, and what varies nowhere weighs nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lumina.evaluation.metrics import METRICS, Metric, estimate
from lumina.evaluation.standard_scores import are_unlike, scale_of
from lumina.evaluation.subsets import resample


def test_values_of_all_groups_have_mean_0_and_spread_1() -> None:
    rng = np.random.default_rng(0)
    groups = [0.97 + 0.01 * rng.standard_normal((30, 1)), 0.75 + 0.03 * rng.standard_normal((30, 1))]
    scale = scale_of(groups)
    counts = resample([f"p{i}" for i in range(30)], 0, 50)
    metric = Metric("x", "x", "frames", "", values=(0, 1))
    own = [estimate(metric, {"x": values}, counts) for values in groups]
    found = [scale.standardised(one) for one in own]
    assert sum(one.value for one in found) == pytest.approx(0, abs=1e-9)
    pooled = (np.concatenate(groups) - scale.mean) / scale.spread
    assert (pooled.mean(), pooled.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    for before, after in zip(own, found, strict=True):
        np.testing.assert_allclose(after.draws * scale.spread + scale.mean, before.draws)
        assert after.values == pytest.approx(((0 - scale.mean) / scale.spread, (1 - scale.mean) / scale.spread))


def test_samples_of_one_prompt_are_one_value_and_what_does_not_apply_is_none() -> None:
    nan = float("nan")
    scale = scale_of([np.array([[1.0, 3.0], [nan, 4.0], [nan, nan]]), np.array([[6.0, 6.0]])])
    assert scale.mean == 4.0
    assert scale.spread == pytest.approx(np.std([2, 4, 6]))
    with pytest.raises(ValueError, match="no value to standardise by"):
        scale_of([np.array([[nan]])])


def test_what_is_equal_everywhere_tells_nothing() -> None:
    values = np.full((4, 2), 0.1)
    scale = scale_of([values, values])
    assert scale.spread == 0
    metric = Metric("x", "x", "frames", "", values=(0, 1))
    found = scale.standardised(estimate(metric, {"x": values}, resample(["a", "b", "c", "d"], 0, 9)))
    assert found.value == pytest.approx(0)
    assert found.values == pytest.approx((-0.1, 0.9))


def test_shares_and_correlations_need_no_scale() -> None:
    assert not are_unlike(["offline/laplacian_sharpness"])
    assert not are_unlike(["shapes/colour_acc", "shapes/unmeasured_rate", "shapes/speed_rank_corr"])
    assert are_unlike(["offline/temporal_flicker", "offline/dynamic_degree_dis"])
    assert are_unlike(["offline/temporal_flicker", "offline/frame_sim_rgbhist"])
    with pytest.raises(ValueError, match="is a correlation over all prompts"):
        are_unlike(["offline/temporal_flicker", "shapes/speed_rank_corr"])
    # A share is what is 0 or 1 for a clip, and its mean lies between.
    assert all(
        metric.values == (0, 1) and "share of clips" in metric.meaning for metric in METRICS.values() if metric.is_share
    )
    assert {name for name, metric in METRICS.items() if "share of clips" in metric.meaning} == {
        name for name, metric in METRICS.items() if metric.is_share
    }
