"""Metrics of generated clips: per-clip values, and how the values of many clips become one figure.

A name says where a figure comes from. `shapes/`: exact detectors of the Shapes world judge the clip against what its
prompt asked for. `offline/`: classical means without a network. Where an `offline/` figure uses a formula of VBench
(arXiv 2311.17982), it is still not a VBench score: other prompts, no static filter, another flow network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lumina.evaluation.prompts import Truth
from lumina.evaluation.subsets import FloatArray, Interval, Range, interval, rank_correlation, weighted_mean

if TYPE_CHECKING:
    from lumina.motion import OpticalFlowEstimator

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Metric:
    """One figure and where its per-clip values are."""

    name: str
    column: str
    """Column of the per-clip values; NaN where it does not apply."""
    needs: Literal["truth", "frames", "flow"]
    """What it looks at besides the clip: the prompt's known truth, nothing, or an optical flow."""
    meaning: str
    asked_column: str | None = None
    """With it the figure is the rank correlation of `column` with this one; without, the mean of `column`."""
    values: Range | None = None
    """What the values of `column` lie between, where the figure is their mean."""
    is_share: bool = False
    """Each clip counts or does not: its value is 0 or 1."""


def _by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: dict[str, Metric] = _by_name(
    Metric(
        "shapes/colour_acc",
        "shapes/colour_acc",
        "truth",
        "share of clips whose largest shape has the asked colour",
        values=(0, 1),
        is_share=True,
    ),
    Metric(
        "shapes/shape_acc",
        "shapes/shape_acc",
        "truth",
        "share of clips whose largest shape is the asked one",
        values=(0, 1),
        is_share=True,
    ),
    Metric(
        "shapes/direction_acc",
        "shapes/direction_acc",
        "truth",
        "share of clips that move, or stay, as asked",
        values=(0, 1),
        is_share=True,
    ),
    Metric(
        "shapes/speed_rank_corr",
        "shapes/measured_speed",
        "truth",
        "Spearman's rho of asked and measured speed over moving prompts, times the share measured",
        asked_column="shapes/asked_speed",
    ),
    Metric(
        "shapes/unmeasured_rate",
        "shapes/unmeasured_rate",
        "truth",
        "share of clips in which no shape was found",
        values=(0, 1),
        is_share=True,
    ),
    Metric(
        "offline/temporal_flicker",
        "offline/temporal_flicker",
        "frames",
        "VBench's formula; 1 = no change at all",
        values=(0, 1),
    ),
    Metric(
        "offline/frame_sim_rgbhist",
        "offline/frame_sim_rgbhist",
        "frames",
        "colour histograms stay as they were",
        values=(0, 1),
    ),
    Metric("offline/laplacian_sharpness", "offline/laplacian_sharpness", "frames", "variance of the Laplacian"),
    Metric(
        "offline/constant_rate",
        "offline/constant_rate",
        "frames",
        "share of clips that are one flat colour",
        values=(0, 1),
        is_share=True,
    ),
    Metric(
        "offline/dynamic_degree_dis",
        "offline/dynamic_degree_dis",
        "flow",
        "share of clips that move; VBench's rule",
        values=(0, 1),
        is_share=True,
    ),
    Metric("offline/flow_abs_mean_dis", "offline/flow_abs_mean_dis", "flow", "mean absolute flow, pixels per frame"),
)


def measure_clip(
    frames: Frames, fps: float, truth: Truth | None, names: Sequence[str], flow: OpticalFlowEstimator
) -> dict[str, float]:
    """Measure one clip: the value of every column that the named metrics read.

    Args:
        frames: uint8 RGB [T, H, W, 3], T at least 2.
        fps: frames per second.
        truth: what the prompt asked for; needed by `shapes/` metrics.
        names: keys of METRICS.
        flow: used by metrics that need a flow; named in their suffix, so it must be the DIS one.

    Raises:
        ValueError: one frame only, or a `shapes/` metric without a truth.
    """
    if len(frames) < 2:
        raise ValueError(f"a clip needs at least two frames to be measured, this one has {len(frames)}")
    metrics = [METRICS[name] for name in names]
    row: dict[str, float] = {}
    if any(m.needs == "truth" for m in metrics):
        if truth is None:
            raise ValueError(
                "shapes/ metrics need prompts whose truth is known: use the shapes suite, or leave them out"
            )
        row |= judge_shape(frames, fps, truth)
    if any(m.needs == "flow" for m in metrics):
        row |= flow_columns(frames, fps, flow)
    simple = {
        "offline/temporal_flicker": temporal_flicker,
        "offline/frame_sim_rgbhist": frame_similarity,
        "offline/laplacian_sharpness": laplacian_sharpness,
        "offline/constant_rate": is_constant,
    }
    row |= {name: float(function(frames)) for name, function in simple.items() if name in names}
    wanted = {c for m in metrics for c in (m.column, m.asked_column) if c is not None}
    return {column: row[column] for column in sorted(wanted)}


def judge_shape(frames: Frames, fps: float, truth: Truth) -> dict[str, float]:
    """Compare the largest shape of a clip with what was asked for; a clip without a shape is wrong in everything."""
    from lumina.shapes import measure

    found = measure(frames, fps).shapes
    moves = truth.direction != "still"
    return {
        "shapes/colour_acc": float(bool(found) and found[0].color == truth.color),
        "shapes/shape_acc": float(bool(found) and found[0].kind == truth.kind),
        "shapes/direction_acc": float(bool(found) and found[0].direction == truth.direction),
        "shapes/unmeasured_rate": float(not found),
        "shapes/measured_speed": found[0].speed_value if found else math.nan,
        "shapes/asked_speed": truth.speed if moves else math.nan,
    }


def temporal_flicker(frames: Frames) -> float:
    """(255 - mean absolute difference of consecutive frames) / 255, in [0, 1] (VBench, temporal flickering)."""
    steps = [np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)]
    return float((255.0 - np.mean(steps)) / 255.0)


def frame_similarity(frames: Frames) -> float:
    """VBench's consistency score with 16-bin RGB histograms as features, in [0, 1].

    Each frame's cosine with the one before and with the first are averaged.
    """
    histograms = np.stack(
        [np.concatenate([np.bincount(f[..., c].ravel() // 16, minlength=16) for c in range(3)]) for f in frames]
    ).astype(np.float64)
    unit = histograms / np.linalg.norm(histograms, axis=1, keepdims=True)
    before, first = (unit[1:] * unit[:-1]).sum(axis=1), (unit[1:] * unit[:1]).sum(axis=1)
    return float((before + first).mean() / 2)


def laplacian_sharpness(frames: Frames) -> float:
    """Variance of the 4-neighbour Laplacian of luma in [0, 255], averaged over frames; 0 for frames below 3x3."""
    # No matrix product: BLAS rounds it as the kernel does that it takes for the CPU, or for OPENBLAS_CORETYPE.
    red, green, blue = (frames[..., channel].astype(np.float32) for channel in range(3))
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    if min(luma.shape[1:]) < 3:
        return 0.0
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return float((around - 4 * luma[:, 1:-1, 1:-1]).var(axis=(1, 2), dtype=np.float64).mean())


def is_constant(frames: Frames) -> bool:
    """Every frame is one flat colour: the largest standard deviation within a frame and channel is below 1 of 255."""
    return bool(frames.std(axis=(1, 2)).max() < 1.0)


def flow_columns(frames: Frames, fps: float, flow: OpticalFlowEstimator) -> dict[str, float]:
    """Dynamic degree and mean absolute flow between every max(1, round(fps / 8))-th frames.

    A pair moves when the mean of its largest 5 % flow vectors exceeds 6 px per 256 px of the shorter side; a clip is
    dynamic when at least round(4 n / 16) of its n sampled frames' pairs move (VBench, dynamic degree). Short clips
    round to none, where one pair is asked for here.

    Raises:
        ValueError: fewer than two sampled frames.
    """
    sampled = frames[:: max(1, round(fps / 8))]
    if len(sampled) < 2:
        raise ValueError(f"{len(frames)} frames at {fps} fps give {len(sampled)} sampled frame: flow needs two")
    vectors = flow(sampled[:-1], sampled[1:])
    lengths = np.hypot(vectors[:, 0], vectors[:, 1]).reshape(len(vectors), -1)
    largest = np.sort(lengths, axis=1)[:, -max(1, int(lengths.shape[1] * 0.05)) :].mean(axis=1)
    moving = int((largest > 6.0 * min(frames.shape[1:3]) / 256.0).sum())
    return {
        "offline/dynamic_degree_dis": float(moving >= max(1, round(4 * len(sampled) / 16))),
        "offline/flow_abs_mean_dis": float(np.abs(vectors).mean() / max(1, round(fps / 8))),
    }


@dataclass(frozen=True)
class Estimate:
    """A figure of one group with its bootstrap draws."""

    value: float
    draws: FloatArray
    """[B], in the order of the resamples: draws of two groups are paired."""
    units: int
    """Prompts it rests on."""
    values: Range | None = None
    """What the values lie between that it is the mean of, if it is one."""

    def interval(self, confidence: float) -> Interval:
        """The pointwise interval of the figure."""
        return interval(self.value, self.draws, self.units, confidence, self.values)


def estimate(metric: Metric, columns: Mapping[str, FloatArray], counts: NDArray[np.int64]) -> Estimate:
    """Reduce a metric's per-clip values [P, S] to its figure, once as they are and once in every resample.

    Args:
        metric: which figure.
        columns: per-clip values by column name, each [P, S].
        counts: resamples [B, P].

    Raises:
        ValueError: the metric applies to none of the clips.
    """
    values = columns[metric.column]
    asked = None if metric.asked_column is None else columns[metric.asked_column]
    applies = ~np.isnan(values if asked is None else asked)
    units = int(applies.any(axis=1).sum())
    if not units:
        raise ValueError(f"{metric.name} applies to none of the {len(values)} prompts: leave it out")

    def reduce(weights: NDArray[np.int64]) -> FloatArray:
        return weighted_mean(weights, values) if asked is None else rank_correlation(weights, values, asked)

    once = np.ones((1, len(values)), dtype=np.int64)
    return Estimate(float(reduce(once)[0]), reduce(counts), units, metric.values)


def composite(estimates: Mapping[str, Estimate], weights: Mapping[str, float]) -> Estimate:
    """The weighted mean of several figures of one group, sum(w * figure) / sum(|w|), resample by resample."""
    total = sum(abs(w) for w in weights.values())
    value = sum(w * estimates[name].value for name, w in weights.items()) / total
    draws = np.sum([w * estimates[name].draws for name, w in weights.items()], axis=0) / total
    return Estimate(value, draws, min(estimates[name].units for name in weights), _composite_range(estimates, weights))


def _composite_range(estimates: Mapping[str, Estimate], weights: Mapping[str, float]) -> Range | None:
    ends = []
    for name, weight in weights.items():
        if (values := estimates[name].values) is None:
            return None
        ends.append(sorted((weight * values[0], weight * values[1])))
    total = sum(abs(w) for w in weights.values())
    return sum(low for low, _ in ends) / total, sum(high for _, high in ends) / total


def difference(before: Estimate, after: Estimate) -> Estimate:
    """After minus before, resample by resample: both are measured on the same prompts."""
    values = None
    if before.values is not None and after.values is not None:
        values = after.values[0] - before.values[1], after.values[1] - before.values[0]
    units = min(before.units, after.units)
    return Estimate(after.value - before.value, after.draws - before.draws, units, values)
