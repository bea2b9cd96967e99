"""Peaks of motion: when things jump, and not when nothing moves."""

from __future__ import annotations

import numpy as np
import pytest

from lumina.video_to_audio.motion_peaks import flow_magnitude, flow_trajectory, peak_times
from tests.lumina.vbench.networks.reference_numbers import frames
from tests.lumina.video_to_audio.scenes import jumps


def test_jumps_are_peaks() -> None:
    clip = jumps(10, 2.0, 0.5, 1.2)
    assert peak_times(flow_trajectory(clip), 10) == [0.5, 1.2]


def test_what_stands_still_has_none_in_either_version() -> None:
    still = flow_trajectory(jumps(10, 1.0))
    assert len(still) == 10
    assert len(set(still)) == 1
    assert peak_times(still, 10, "v2023") == []


def test_the_first_frame_moves_as_the_second() -> None:
    clip = jumps(10, 0.5, 0.1)
    trajectory = flow_trajectory(clip)
    assert trajectory[0] == trajectory[1] == flow_magnitude(clip[0], clip[1]) > 0
    # A twin is no peak.
    assert peak_times(trajectory, 10) == []


def test_small_peaks_count_in_v2023_alone() -> None:
    trajectory = [0.0, 0.05, 0.0, 0.1, 0.0]
    assert peak_times(trajectory, 2, "v2023") == [0.5, 1.5]
    assert peak_times(trajectory, 2) == [1.5]


def test_lengths_grow_with_the_size() -> None:
    clip = frames(3, 96, 128)
    small, large = max(flow_trajectory(clip)), max(flow_trajectory(clip, short_side=192))
    assert 1.7 < large / small < 2.3
    assert flow_trajectory(clip, short_side=96) == flow_trajectory(clip)


def test_one_frame_does_not_move() -> None:
    with pytest.raises(ValueError, match="T >= 2"):
        flow_trajectory(np.zeros((1, 8, 8, 3), np.uint8))
