"""Metrics agree with hand-made clips: still ones, moving ones, the asked shape and another one."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.evaluation.metrics import (
    METRICS,
    composite,
    difference,
    estimate,
    flow_columns,
    frame_similarity,
    is_constant,
    laplacian_sharpness,
    measure_clip,
    temporal_flicker,
)
from lumina.evaluation.prompts import Truth
from lumina.evaluation.subsets import resample
from lumina.randomness import generator
from lumina.shapes import render, sample_scene

FPS = 8.0
LAPLACE = "offline/laplacian_sharpness"


class KnownFlow:
    """A flow estimator that reports the same vector for every pixel."""

    name = "known"

    def __init__(self, x: float) -> None:
        self.x = x

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        flow = np.zeros((len(a), 2, *a.shape[1:3]), np.float32)
        flow[:, 0] = self.x
        return flow


def _clip(color: str, kind: str, direction: str, speed: str) -> np.ndarray:
    scene = sample_scene(
        generator(0, "test-scene", color), num_shapes=1, color=color, kind=kind, direction=direction, speed=speed
    )
    return render(scene, num_frames=16, height=64, width=64, fps=FPS)


def test_flicker_is_exact() -> None:
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    assert temporal_flicker(frames) == 1.0
    frames[1] = 51
    assert temporal_flicker(frames) == pytest.approx(1 - 51 / 255)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_ranges_hold_for_any_clip(seed: int, num_frames: int) -> None:
    frames = generator(seed, "frames").integers(0, 256, (num_frames, 6, 5, 3), dtype=np.uint8)
    assert 0 <= temporal_flicker(frames) <= 1
    assert 0 <= frame_similarity(frames) <= 1 + 1e-12
    assert laplacian_sharpness(frames) >= 0
    assert temporal_flicker(frames) == pytest.approx(temporal_flicker(frames[::-1]))


def test_a_flat_clip_is_constant_and_the_same_all_along() -> None:
    flat = np.full((4, 8, 8, 3), 90, np.uint8)
    assert is_constant(flat)
    assert not is_constant(_clip("red", "circle", "left", "fast"))
    assert frame_similarity(flat) == pytest.approx(1.0)
    assert laplacian_sharpness(flat) == 0.0


def test_dynamic_degree_follows_the_threshold() -> None:
    frames = np.zeros((16, 64, 64, 3), np.uint8)
    threshold = 6 * 64 / 256
    for x, expected in ((threshold * 0.99, 0.0), (threshold * 1.01, 1.0)):
        row = flow_columns(frames, 16.0, KnownFlow(x))
        assert row["offline/dynamic_degree_dis"] == expected
        assert row["offline/flow_abs_mean_dis"] == pytest.approx(x / 2 / 2)


@pytest.mark.parametrize("size", [(64, 256), (256, 64)])
def test_dynamic_degree_is_relative_to_the_shorter_side(size: tuple[int, int]) -> None:
    frames = np.zeros((16, *size, 3), np.uint8)
    threshold = 6 * 64 / 256
    for x, expected in ((threshold * 0.99, 0.0), (threshold * 1.01, 1.0)):
        assert flow_columns(frames, 8.0, KnownFlow(x))["offline/dynamic_degree_dis"] == expected


class PartialFlow:
    """In the first `pairs` pairs a share of the pixels moves, half of them to the left."""

    name = "partial/1"

    def __init__(self, pairs: int, share: float, length: float) -> None:
        self.pairs, self.share, self.length = pairs, share, length

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        flow = np.zeros((len(a), 2, a.shape[1] * a.shape[2]), np.float32)
        moving = round(self.share * flow.shape[2])
        flow[: self.pairs, 0, : moving // 2] = self.length
        flow[: self.pairs, 0, moving // 2 : moving] = -self.length
        return flow.reshape(len(a), 2, *a.shape[1:3])


@pytest.mark.parametrize(
    ("pairs", "share", "length", "dynamic"),
    # 16 sampled frames: four pairs must move, each by the mean of its largest twentieth.
    [(4, 0.05, 1.51, 1), (3, 0.05, 1.51, 0), (15, 0.05, 1.49, 0), (15, 0.025, 2.99, 0), (15, 0.025, 3.01, 1)],
)
def test_a_clip_is_dynamic_when_enough_of_its_pairs_move(
    pairs: int, share: float, length: float, dynamic: float
) -> None:
    frames = np.zeros((31, 64, 100, 3), np.uint8)
    row = flow_columns(frames, 16.0, PartialFlow(pairs, share, length))
    assert row["offline/dynamic_degree_dis"] == dynamic
    # Opposite motions do not cancel; two components, and every second frame.
    assert row["offline/flow_abs_mean_dis"] == pytest.approx(length * share * pairs / 15 / 2 / 2)


def test_a_difference_is_after_minus_before_draw_by_draw() -> None:
    counts = resample([f"p{i}" for i in range(8)], 0, 200)
    name = "shapes/colour_acc"
    values = generator(0, "difference").random((2, 8, 1)) < [[[0.3]], [[0.8]]]
    before, after = (estimate(METRICS[name], {name: one.astype(float)}, counts) for one in values)
    found = difference(before, after)
    assert found.value == after.value - before.value
    np.testing.assert_array_equal(found.draws, after.draws - before.draws)
    assert (found.values, found.units) == ((-1, 1), 8)
    sharper = estimate(METRICS[LAPLACE], {LAPLACE: np.ones((8, 1))}, counts)
    assert difference(sharper, sharper).values is None


def test_the_asked_shape_is_right_and_another_is_wrong() -> None:
    shapes = [name for name in METRICS if name.startswith("shapes/")]
    asked = Truth("blue", "square", "right", 0.2)
    row = measure_clip(_clip("blue", "square", "right", "fast"), FPS, asked, shapes, KnownFlow(0))
    assert (row["shapes/colour_acc"], row["shapes/shape_acc"], row["shapes/direction_acc"]) == (1, 1, 1)
    assert row["shapes/measured_speed"] == pytest.approx(0.215, abs=0.03)
    row = measure_clip(_clip("red", "circle", "still", "still"), FPS, asked, shapes, KnownFlow(0))
    assert (row["shapes/colour_acc"], row["shapes/shape_acc"], row["shapes/direction_acc"]) == (0, 0, 0)


def test_a_clip_without_a_shape_counts_as_wrong() -> None:
    grey = np.full((8, 64, 64, 3), 128, np.uint8)
    row = measure_clip(grey, FPS, Truth("red", "circle", "still", 0.0), list(METRICS), KnownFlow(0))
    assert row["shapes/unmeasured_rate"] == 1
    assert row["shapes/direction_acc"] == 0
    assert math.isnan(row["shapes/measured_speed"])
    assert math.isnan(row["shapes/asked_speed"])


def test_only_the_named_columns_come_out() -> None:
    row = measure_clip(np.zeros((2, 4, 4, 3), np.uint8), FPS, None, ["offline/temporal_flicker"], KnownFlow(0))
    assert row == {"offline/temporal_flicker": 1.0}
    with pytest.raises(ValueError, match="truth is known"):
        measure_clip(np.zeros((2, 4, 4, 3), np.uint8), FPS, None, ["shapes/colour_acc"], KnownFlow(0))
    with pytest.raises(ValueError, match="at least two frames"):
        measure_clip(np.zeros((1, 4, 4, 3), np.uint8), FPS, None, ["offline/temporal_flicker"], KnownFlow(0))


def test_estimates_reduce_and_combine() -> None:
    counts = resample([f"p{i}" for i in range(6)], 0, 100)
    columns = {
        "shapes/colour_acc": np.array([[1.0, 0.0]] * 6),
        "shapes/measured_speed": np.array([[0.1, 0.2]] * 3 + [[0.3, 0.4]] * 3),
        "shapes/asked_speed": np.array([[1.0, 1.0]] * 3 + [[2.0, 2.0]] * 2 + [[np.nan, np.nan]]),
    }
    accuracy = estimate(METRICS["shapes/colour_acc"], columns, counts)
    assert (accuracy.value, accuracy.units) == (0.5, 6)
    # Six prompts of six agree; that half of all do is as sure as 0.46^6 is small.
    assert accuracy.interval(0.95).low == pytest.approx(0.5 * 0.025 ** (1 / 6))
    assert accuracy.interval(0.95).high == pytest.approx(1 - 0.5 * 0.025 ** (1 / 6))
    speed = estimate(METRICS["shapes/speed_rank_corr"], columns, counts)
    assert speed.units == 5
    assert 0.8 < speed.value < 1
    both = composite({"a": accuracy, "b": speed}, {"a": 3.0, "b": -1.0})
    assert both.value == pytest.approx((1.5 - speed.value) / 4)
    assert both.values is None
    assert composite({"a": accuracy, "b": accuracy}, {"a": 3.0, "b": -1.0}).values == (-0.25, 0.75)
    assert difference(accuracy, accuracy).values == (-1, 1)
    change = difference(accuracy, speed)
    assert change.value == pytest.approx(speed.value - 0.5)
    np.testing.assert_allclose(change.draws, speed.draws - accuracy.draws)
    with pytest.raises(ValueError, match="applies to none"):
        estimate(METRICS["shapes/colour_acc"], {"shapes/colour_acc": np.full((6, 1), np.nan)}, counts)


def test_sharpness_does_not_depend_on_the_kernel_that_blas_takes() -> None:
    code = (
        "import numpy as np; from lumina.evaluation.metrics import laplacian_sharpness as sharpness; "
        "print(repr(sharpness(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))))"
    )
    own = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    found = [
        subprocess.run([sys.executable, "-c", code], env={**own, **kernel}, capture_output=True, check=True).stdout
        for kernel in ({}, {"OPENBLAS_CORETYPE": "Haswell"})
    ]
    assert found[0] == found[1]
