"""Onset F1: matchings by hand and against the largest there is, empty clips, seen events, inaudible onsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lumina.video_to_audio.evaluation.loudness import LEAST_DBFS, dbfs
from lumina.video_to_audio.evaluation.onset_f1 import TOLERANCE_S, OnsetCounts, audible, count, count_some, match

TIMES = st.lists(st.integers(0, 40).map(lambda step: step / 40), max_size=9).map(sorted)


def test_by_hand() -> None:
    # 0.20 meets one of two, 0.60 is early by 40 ms, 1.00 by 60 ms; the end of the tolerance belongs to it.
    assert match([0.2, 0.6, 1.0, 1.5], [0.19, 0.22, 0.64, 1.06, 1.55]) == [(0, 0), (1, 2), (3, 4)]
    found = count([0.2, 0.6, 1.0, 1.5], [0.19, 0.22, 0.64, 1.06, 1.55])
    assert (found.precision, found.recall, found.f1) == (3 / 5, 3 / 4, 6 / 9)
    # The nearest would be 0.05, which leaves 0.09 without any.
    assert match([0.0, 0.09], [0.05, 0.05], 0.05) == [(0, 0), (1, 1)]


def test_without_events_or_onsets_there_is_a_number() -> None:
    assert OnsetCounts(0, 0, 0).f1 == OnsetCounts(0, 0, 0).precision == OnsetCounts(0, 0, 0).recall == 1
    assert [getattr(count([], [0.1]), name) for name in ("precision", "recall", "f1")] == [0, 1, 0]
    assert [getattr(count([0.1], []), name) for name in ("precision", "recall", "f1")] == [1, 0, 0]


@given(TIMES, TIMES)
def test_the_matching_is_a_largest_one(events: list[float], onsets: list[float]) -> None:
    pairs = match(events, onsets)
    assert len({event for event, _ in pairs}) == len({onset for _, onset in pairs}) == len(pairs)
    assert all(abs(events[event] - onsets[onset]) <= TOLERANCE_S + 1e-9 for event, onset in pairs)
    near = np.abs(np.subtract.outer(np.array(events), np.array(onsets))) <= TOLERANCE_S + 1e-9
    rows, columns = linear_sum_assignment(near, maximize=True)
    assert len(pairs) == near[rows, columns].sum()
    swapped, found = count(onsets, events), count(events, onsets)
    assert (swapped.f1, swapped.precision) == (found.f1, found.recall)
    assert 0 <= found.f1 <= 1


def test_times_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="onsets must ascend"):
        match([0.1, 0.2], [0.2, 0.1])


def test_onsets_of_events_that_are_not_seen_are_left_out() -> None:
    events, seen = [0.2, 0.5, 0.9], [True, False, True]
    assert count_some(events, seen, [0.2, 0.5, 0.7]) == OnsetCounts(2, 2, 1)
    assert count_some(events, [True] * 3, [0.2, 0.5, 0.7]) == count(events, [0.2, 0.5, 0.7])
    assert count_some(events, [False] * 3, [0.2, 0.5]) == OnsetCounts(0, 0, 0)


def test_onsets_that_nobody_hears_are_none() -> None:
    rate = 16_000
    wave = 10 ** (-60 / 20) * torch.ones(rate)
    wave[8000:] = 0.1
    assert audible([0.1, 0.5, 0.99, 1.02], wave, rate, -50) == [0.5, 0.99, 1.02]
    assert audible([0.1], wave, rate, -60.001) == [0.1]
    assert dbfs(torch.full((8,), 0.1)) == pytest.approx(-20)
    assert dbfs(torch.zeros(8)) == dbfs(torch.zeros(0)) == LEAST_DBFS
