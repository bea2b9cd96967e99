"""Curves at equal steps, and figures with their intervals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.diff.figures import (
    Figure,
    compare_curves,
    compare_evaluations,
    compare_metrics,
    largest_moves,
    read_curve,
    unmatched,
)
from pipelines.engine.store.manifest import Manifest
from pipelines.errors import StoreError


def manifest(metrics: dict[str, float], *evaluations: tuple[str, dict[str, float]], stage: str = "s") -> Manifest:
    listed: tuple[dict[str, Any], ...] = tuple({"name": name, "metrics": of} for name, of in evaluations)
    return Manifest(stage, "", "", "rows", "", {}, (), metrics=metrics, evaluations=listed)


def figure(a: float, b: float, *intervals: tuple[float, float]) -> Figure:
    low, high = intervals or (None, None)
    return Figure("s", "e", "m", (a, b), (low, high))


def test_curves_meet_at_the_steps_of_both() -> None:
    a = {1: {"loss": 4.0, "val": 1.0}, 2: {"loss": 2.0}, 3: {"loss": math.nan}}
    b = {2: {"loss": 1.0}, 3: {"loss": math.nan}, 4: {"loss": 5.0, "other": 0.0}}
    [loss] = compare_curves("train", a, b)
    assert (loss.metric, loss.steps, loss.only_a, loss.only_b) == ("loss", 2, 1, 1)
    assert (loss.first_step, loss.largest, loss.largest_step, loss.last_step) == (2, 0.5, 2, 3)
    [broken] = compare_curves("train", {1: {"loss": 1.0}}, {1: {"loss": math.nan}})
    assert (broken.first_step, broken.largest) == (1, math.inf)


def test_a_curve_leaves_out_what_a_clock_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1, "data_share": 0.1, "seconds_per_step": 2}\n')
    assert read_curve("train", tmp_path) == {5: {"loss": 1.0}}


@pytest.mark.parametrize("line", ['{"loss": 1}', "[1]", '{"step": 2, "loss": null}', '{"step": 2'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 1}}\n{line}\n')
    with pytest.raises(StoreError, match=r"stage train: .*metrics.jsonl, line 2: (no JSON|expected a step)"):
        read_curve("train", tmp_path)


@pytest.mark.parametrize(
    ("one", "moved", "outside"),
    [
        (figure(0.5, 0.5), False, None),
        (figure(math.nan, math.nan), False, None),
        (figure(0.5, 0.7), True, None),
        (figure(0.5, 0.7, (0.4, 0.6), (0.6, 0.8)), True, True),
        (figure(0.5, 0.7, (0.4, 0.8), (0.6, 0.8)), True, False),
    ],
)
def test_a_move_is_held_against_the_intervals(one: Figure, moved: bool, outside: bool | None) -> None:
    assert (one.moved, one.outside) == (moved, outside)


def test_moves_are_ranked_in_widths_of_their_intervals() -> None:
    sharp, acc = figure(100, 110, (80, 120), (90, 130)), figure(0.5, 0.6, (0.45, 0.55), (0.55, 0.65))
    assert (sharp.size, acc.size) == (0.5, pytest.approx(2))
    exact = figure(1.0, 0.9, (1.0, 1.0), (0.9, 0.9))
    assert exact.size == pytest.approx(0.1)
    assert figure(0.0, math.nan).size == math.inf
    assert largest_moves([figure(1, 1), sharp, acc], 5) == [acc, sharp]


def test_evaluations_match_though_another_prompt_was_chosen() -> None:
    a = manifest({}, ("web | after | finetune", {"eval/acc": 0.5, "interval/acc_low": 0.4, "interval/acc_high": 0.6}))
    b = manifest({}, ("phone | after | finetune", {"eval/acc": 0.6}))
    [one] = compare_evaluations(a, b)
    assert (one.evaluation, one.metric, one.values, one.intervals) == (
        "web -> phone | after | finetune", "acc", (0.5, 0.6), ((0.4, 0.6), None)
    )  # fmt: skip
    [own] = compare_evaluations(*[manifest({}, ("web | train@3", {"eval/acc": 1.0}), stage="evaluate@web")] * 2)
    assert own.evaluation == "train@3"


def test_what_one_side_alone_has_is_told() -> None:
    a = manifest({"loss": 1.0, "old": 1.0}, ("web", {"eval/acc": 0.5}))
    b = manifest({"loss": 2.0, "new": 1.0}, ("web", {"eval/acc": 0.5}), ("phone", {"eval/acc": 0.5}))
    assert unmatched(a, b) == (
        "s: figures only in A: old", "s: figures only in B: new", "s: evaluations only in B: phone"
    )  # fmt: skip
    assert [one.evaluation for one in compare_evaluations(a, b)] == ["web"]
    assert [(one.metric, one.moved) for one in compare_metrics(a, b)] == [("loss", True)]
    fast, slow = manifest({"train/seconds_per_step": 1.0}), manifest({"train/seconds_per_step": 2.0})
    assert compare_metrics(fast, slow) == ()
