"""Figures of a condition: means and ratios by hand, their pairs, and what a comparison says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lumina.evaluation.subsets import resample
from lumina.video_to_audio.evaluation.figures import differences, estimates
from lumina.video_to_audio.evaluation.found import what_is_found


def row(
    events: int | None, onsets: int = 0, hits: int = 0, right: int = 0, align: float | None = 0.5
) -> dict[str, Any]:
    counts = {"events": events, "onsets": onsets, "hits": hits, "class_hits": right}
    seen = {f"seen_{name}": counts[name] for name in ("events", "onsets", "hits")}
    levels = {"mel_l1": 1.0, "mel_recon_snr": None, "rms_dbfs": -20.0}
    return {**counts, **seen, "av_align": align, "av_align_excess": align, **levels}


CLIPS = ["a", "b", "c"]
DRAWN = resample(CLIPS, 0, 400)


def test_means_are_of_clips_and_ratios_of_events() -> None:
    rows = {"a": row(4, 4, 2, 1), "b": row(0, 0, 0), "c": row(1, 3, 1, 1, None)}
    found = estimates(rows, CLIPS, DRAWN)
    value = {name: one.value for name, one in found.items()}
    assert value["onset_f1_50ms"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert value["onset_f1_micro_50ms"] == pytest.approx(2 * 3 / (5 + 7))
    assert (value["class_acc_matched"], value["class_acc_all"]) == (pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert (value["av_align_v2025"], found["av_align_v2025"].units) == (0.5, 2)
    assert "mel_recon_snr" not in found
    interval = found["onset_f1_micro_50ms"].interval(0.9)
    assert 0 <= interval.low < 0.5 < interval.high <= 1
    # Every resample has the ratio of its own clips.
    draws, both = found["onset_f1_micro_50ms"].draws, DRAWN @ np.array([8.0, 0.0, 4.0])
    np.testing.assert_allclose(draws[both > 0], (DRAWN @ np.array([4.0, 0.0, 2.0]))[both > 0] / both[both > 0])
    assert np.isnan(draws[both == 0]).all()


def test_a_pair_is_of_the_clips_that_both_have() -> None:
    before = {"a": row(2, 2, 1), "b": row(2, 2, 1, align=None), "c": row(None)}
    after = {"a": row(2, 2, 2, align=0.7), "b": row(2, 0, 0)}
    found = differences(before, after, CLIPS, DRAWN)
    first, second, change = found["onset_f1_50ms"]
    assert (first.value, second.value, change.value) == (0.5, 0.5, 0)
    assert [one.value for one in found["av_align_v2025"]] == [0.5, 0.7, pytest.approx(0.2)]
    same = differences(before, before, CLIPS, DRAWN)["onset_f1_50ms"][2]
    assert not same.draws[~np.isnan(same.draws)].any()


def test_what_is_found_is_said_also_if_it_is_nothing() -> None:
    many = [f"{number:02}" for number in range(30)]
    drawn = resample(many, 0, 1000)
    poor = {clip: row(4, 4, number % 2, 0, 0.1) for number, clip in enumerate(many)}
    good = {clip: row(4, 4, 3 + number % 2, 3, 0.1) for number, clip in enumerate(many)}
    told = what_is_found(differences(poor, good, many, drawn), "train@1", "train@2", 30, 0.95)
    assert told.startswith("train@2 against train@1 on the same 30 clips and noises (95% intervals, each alone): ")
    assert "onset_f1_50ms is 0.875 after 0.125, a difference of +0.750 [" in told
    assert (
        "So train@2 is better in onset_f1_50ms, class_acc_all; no difference is shown in av_align_v2025_excess." in told
    )
    told = what_is_found(differences(good, poor, many, drawn), "train@1", "train@2", 30, 0.95)
    assert "train@2 is worse in onset_f1_50ms" in told
    told = what_is_found(differences(poor, poor, many, drawn), "train@1", "train@2", 30, 0.95)
    assert "So no difference is shown in onset_f1_50ms, class_acc_all, av_align_v2025_excess." in told
    assert what_is_found({}, "x", "y", 2, 0.95).endswith(": no figure applies to both.")
