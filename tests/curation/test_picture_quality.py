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


def _bars(luma: np.ndarray) -> tuple[float | None, float | None]:
    quality = Quality(512)
    frame = luma.astype(np.uint8)[..., None].repeat(3, -1)
    quality.sample(frame, luma_of(frame), None)
    found = quality.found()
    return found["bar_rows"], found["bar_columns"]


def test_dark_ground_is_no_bar_and_bars_of_a_dark_film_are_found() -> None:
    # Brighter from left to right, with a disc: a third of the columns is below the luma of bars.
    ground = np.linspace(11, 60, 300)[None].repeat(200, 0)
    y, x = np.mgrid[:200, :300]
    ground[np.hypot(y - 100, x - 200) < 40] = 150
    assert _bars(ground) == (0, 0)
    # Brighter from top to bottom, with a title in a box.
    ground = np.linspace(13, 60, 200)[:, None].repeat(300, 1)
    ground[24:44, 100:200] = 200
    assert _bars(ground) == (0, 0)
    # As a film of a cellar: no pixel is brighter than bars may be.
    dark = 2 + texture(3, 200, 300) // 12
    assert dark.max() < 24
    assert _bars(dark) == (0, 0)
    framed = np.zeros((240, 300))
    framed[20:220] = dark
    assert _bars(framed) == (pytest.approx(1 / 6, abs=0.01), 0)
    assert _bars(np.full((60, 80), 16)) == (1, 1)


def test_a_small_thing_that_moves_is_no_duplicate() -> None:
    still = np.full((480, 640), 100, np.uint8)
    moved = still.copy()
    moved[100:108, 200:208] = 140
    assert difference(still, still) == 0
    assert difference(still, moved) > 3
    assert duplicates([]) is None
    assert duplicates([0.2, 20, 1.9, 22, 0.1, 19]) == 0.5
    assert duplicates([8.1, 250, 250]) == 0
