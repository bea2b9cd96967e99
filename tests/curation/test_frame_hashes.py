"""Hashes of frames: near for what an encoder, a smaller size, bars or a mirror made of them, far for other pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.frame_hashes import CROPS, HASHED, MIRROR, TIMES, hash_frames, resampling, squash, without_bars

Frames = NDArray[np.uint8]
SIZE = (96, 96)


def picture(seed: int, count: int = TIMES, side: int = 120) -> Frames:
    """Frames of smooth coloured noise that stands still."""
    rng = np.random.Generator(np.random.Philox(seed))
    noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    frame = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.repeat(frame[None], count, axis=0)


def hashes(frames: Frames) -> NDArray[np.uint64]:
    return hash_frames(squash(frames, SIZE)).hashes


def bits(one: np.uint64, other: np.uint64) -> int:
    return int(np.bitwise_count(one ^ other))


def of(kind: int, time: int = 0) -> int:
    return HASHED.index((time, kind))


def test_copies_have_near_hashes_and_other_pictures_far_ones() -> None:
    frames = picture(1)
    first = hashes(frames)[0]
    small = np.stack([cv2.resize(frame, (50, 40), interpolation=cv2.INTER_AREA) for frame in frames])
    noise = np.random.Generator(np.random.Philox(9)).normal(0, 6, frames.shape)
    noisy = np.clip(frames + noise, 0, 255).astype(np.uint8)
    boxed = np.pad(frames, ((0, 0), (17, 17), (0, 0), (0, 0)))
    assert max(bits(first, hashes(copy)[0]) for copy in (small, noisy, boxed)) <= 4
    assert min(bits(first, hashes(picture(seed))[0]) for seed in range(2, 12)) >= 14


@pytest.mark.parametrize("kind", range(1, len(CROPS)))
def test_the_hash_of_a_crop_is_that_of_the_cropped_clip(kind: int) -> None:
    frames = picture(3)
    ends = {0: (0, 120), 1: (6, 114), 2: (0, 108), 3: (12, 120), 4: (0, 114), 5: (6, 120)}
    (top, bottom), (left, right) = (ends[one] for one in CROPS[kind])
    assert bits(hashes(frames)[of(kind)], hashes(frames[:, top:bottom, left:right])[0]) <= 3


def test_the_hash_of_the_mirror_image_is_that_of_the_mirrored_clip() -> None:
    frames = picture(4)
    assert bits(hashes(frames)[of(MIRROR, 4)], hashes(frames[:, :, ::-1])[0]) <= 1
    assert bits(hashes(frames)[0], hashes(frames[:, :, ::-1])[0]) >= 14


def test_what_shows_nothing_and_what_has_ended_has_no_hash() -> None:
    assert not hashes(np.full((TIMES, 64, 64, 3), 130, np.uint8)).any()
    short = hash_frames(picture(5, count=2))
    assert [bool(one) for one in short.hashes] == [time < 2 for time, _ in HASHED]
    assert short.thumbnails.shape == (2, 16, 16, 3)


def test_bars_end_within_a_pixel_and_a_dark_picture_has_none() -> None:
    frames = np.full((2, 40, 50, 3), 200, np.uint8)
    frames[:, :4], frames[:, 4] = 0, 50
    frames[:, :, -5:] = 8
    top, bottom, left, right = without_bars(frames)
    assert (bottom, left, right) == (40, 0, 45)
    assert top == pytest.approx(4.75, abs=0.01)
    dark = np.zeros((2, 40, 50, 3), np.uint8)
    dark[:, 18:22, 20:30] = 255
    assert hash_frames(frames).inside_bars == round(34 / 40 * 44 / 50, 2)
    assert hash_frames(dark).inside_bars == 1
    assert without_bars(dark) == (0, 40, 0, 50)
    assert without_bars(dark * 0) == (0, 40, 0, 50)


def test_resampling_averages_by_area() -> None:
    weights = resampling(0.5, 3.5, 4, 2)
    np.testing.assert_allclose(weights @ np.array([0, 3, 6, 9]), [2, 7])
