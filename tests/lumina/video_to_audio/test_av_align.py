"""AV-Align: both released versions, and the chance that dense sounds and motions have."""

from __future__ import annotations

import pytest

from lumina.randomness import generator
from lumina.video_to_audio.av_align import align, av_align, chance


@pytest.mark.parametrize(
    ("onsets", "peaks", "v2025", "v2023"),
    [
        ([0.2, 0.6], [0.2, 0.6], 1.0, 1.0),
        ([0.2], [], 0.0, 0.0),
        ([], [], None, None),
        # One frame away is too far.
        ([0.5], [0.54], 0.0, 0.0),
        ([0.5], [0.53996], 1.0, 1.0),
        # Three at one peak: one takes it, or all do.
        ([0.49, 0.5, 0.51], [0.5], 1 / 3, 3.0),
        # In order, each takes the first that is free, not the nearest.
        ([0.524, 0.56], [0.5, 0.532], 1.0, 1.0),
        ([0.516, 0.48], [0.5, 0.532], 1 / 3, 1.0),
    ],
)
def test_matches(onsets: list[float], peaks: list[float], v2025: float | None, v2023: float | None) -> None:
    assert av_align(onsets, peaks, 25) == (None if v2025 is None else pytest.approx(v2025))
    assert av_align(onsets, peaks, 25, "v2023") == (None if v2023 is None else pytest.approx(v2023))


def test_dense_clips_score_by_chance_and_have_no_excess() -> None:
    rng = generator(0, "alignment")
    onsets = sorted(rng.uniform(0, 8, 37).tolist())
    peaks = sorted((rng.choice(200, 70, replace=False) / 25).tolist())
    found = align(onsets, peaks, 25, 8.0)
    assert (found.onsets, found.peaks) == (37, 70)
    assert found.score is not None
    assert found.score > 0.15
    # 0.25 by the published table, of other draws.
    assert found.chance == pytest.approx(0.25, abs=0.03)
    assert found.excess == pytest.approx(found.score - (found.chance or 0))
    assert abs(found.excess or 0) < 0.1


def test_true_matches_exceed_chance() -> None:
    times = [0.4, 1.3, 2.9, 4.4, 6.1, 7.2]
    found = align(times, times, 25, 8.0)
    assert found.score == 1
    assert found.excess is not None
    assert found.excess > 0.9
    nothing = align([], [], 25, 8.0)
    assert (nothing.score, nothing.chance, nothing.excess) == (None, None, None)


def test_onsets_come_back_in_at_the_start() -> None:
    # A shift by 51/101 of the clip brings the last quarter to the first, where the peak is.
    assert chance([7.9], [7.9 + 8 * 51 / 101 - 8], 25, 8.0) == pytest.approx(1 / 100)
    with pytest.raises(ValueError, match="duration_s must be positive"):
        chance([1.0], [1.0], 25, 0.0)
