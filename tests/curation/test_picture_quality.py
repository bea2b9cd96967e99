from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.picture_quality import Quality, difference, duplicates, is_combed, luma_of
from tests.curation.scored import panned, texture

H, W = 48, 64


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), step=st.integers(4, 9), blur=st.sampled_from([2.0, 3.0, 4.0]))
def test_fields_of_two_times_have_combs_and_a_frame_of_one_time_never(seed: int, step: int, blur: float) -> None:
    before, now, later = panned(texture(seed, H, W, blur), 3, step)[..., 0]
    woven = now.copy()
    woven[1::2] = later[1::2]
    assert not is_combed(before, now)
    assert is_combed(before, woven)
    assert not is_combed(woven, woven)


@settings(max_examples=15, deadline=None)
@given(top=st.integers(0, 20), bottom=st.integers(0, 20), left=st.integers(0, 24), right=st.integers(0, 24))
def test_bars_are_found_to_the_pixel_and_nothing_else_is_measured_in_them(
    top: int, bottom: int, left: int, right: int
) -> None:
    picture = np.maximum(texture(5, H, W), 60)[..., None].repeat(3, -1)
    framed = np.zeros_like(picture)
    inside = slice(top, H - bottom), slice(left, W - right)
    framed[inside] = picture[inside]
    quality = Quality(512)
    quality.sample(framed, luma_of(framed), None)
    found = quality.found()
    assert found["bar_rows"] == pytest.approx((top + bottom) / H)
    assert found["bar_columns"] == pytest.approx((left + right) / W)
    assert found["black_clipped"] == 0
    assert found["duplicate_frames"] is None


def test_a_small_thing_that_moves_is_no_duplicate() -> None:
    still = np.full((480, 640), 100, np.uint8)
    moved = still.copy()
    moved[100:108, 200:208] = 140
    assert difference(still, still) == 0
    assert difference(still, moved) > 3
    assert duplicates([]) is None
    assert duplicates([0.2, 20, 1.9, 22, 0.1, 19]) == 0.5
    assert duplicates([8.1, 250, 250]) == 0
