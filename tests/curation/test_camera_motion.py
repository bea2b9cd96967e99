from __future__ import annotations

import cv2
import numpy as np
import pytest

from curation.camera_motion import Camera, shake
from curation.picture_quality import luma_of
from lumina.randomness import generator
from lumina.shapes import SOURCES, film, render, sample_scene
from tests.curation.scored import panned, texture

SIDE, T, FPS = 128, 24, 16
STAMPS = np.arange(T) / FPS


def _seen(frames: np.ndarray) -> dict[str, float | None]:
    camera = Camera(192, 0.05)
    for stamp, frame in zip(STAMPS, frames, strict=False):
        camera.see(float(stamp), luma_of(frame))
    return camera.found()


def _handheld_path(seed: int) -> np.ndarray:
    """The path of `lumina.shapes.sources._handheld`, in short sides: what it draws first."""
    rng, t, path = generator(seed, "shake"), np.linspace(0, 2 * np.pi, T), np.zeros((T, 2))
    for cycles in (2, 3, 5):
        path += rng.uniform(0.002, 0.007, 2) * np.sin(cycles * t[:, None] + rng.uniform(0, 2 * np.pi, 2))
    return path


def test_the_shake_of_handheld_clips_is_that_which_they_were_made_with() -> None:
    measured, true = [], []
    for seed in range(4):
        scene = sample_scene(generator(seed, "scene"))
        size = {"num_frames": T, "height": SIDE, "width": SIDE, "fps": FPS}
        found = _seen(film(scene, SOURCES["handheld"], generator(seed, "shake"), **size))  # type: ignore[arg-type]
        steady = _seen(render(scene, **size))  # type: ignore[arg-type]
        measured.append(found["camera_shake"])
        true.append(100 * shake(STAMPS, _handheld_path(seed)))
        assert steady["camera_shake"] is not None
        assert steady["camera_shake"] < 0.1 * true[-1]
        assert steady["camera_pan"] is not None
        assert steady["camera_pan"] < 0.02
    assert measured == pytest.approx(true, rel=0.25)
    assert np.mean(measured) == pytest.approx(np.mean(true), rel=0.1)


def test_pan_and_zoom_are_measured_in_their_units() -> None:
    picture = texture(3, SIDE, 160)
    panning = _seen(panned(picture, T, 2))
    assert panning["camera_pan"] == pytest.approx(2 * FPS / SIDE, rel=0.02)
    assert panning["camera_shake"] == pytest.approx(0, abs=0.02)
    assert panning["camera_zoom"] == pytest.approx(0, abs=0.01)
    assert panning["camera_fit"] is not None
    assert panning["camera_fit"] > 0.8
    rate, middle = 0.2, ((160 - 1) / 2, (SIDE - 1) / 2)
    zoomed = [
        cv2.warpAffine(picture, cv2.getRotationMatrix2D(middle, 0, float(np.exp(rate * stamp))), (160, SIDE))
        for stamp in STAMPS
    ]
    found = _seen(np.stack(zoomed)[..., None].repeat(3, -1))
    assert found["camera_zoom"] == pytest.approx(rate, rel=0.05)
    assert found["camera_pan"] == pytest.approx(0, abs=0.01)


def test_a_plain_ground_and_a_short_clip_tell_nothing() -> None:
    for frames in (np.full((T, 64, 64, 3), 90, np.uint8), panned(texture(1, 64, 64), 3, 2)):
        assert set(_seen(frames).values()) == {None}


def test_a_pan_that_speeds_up_is_no_shake() -> None:
    times = np.arange(48) / 16
    path = np.stack([times, 0.3 * times**2], axis=1)
    assert shake(times, path) == pytest.approx(0, abs=1e-9)
    wobble = 0.01 * np.sin(2 * np.pi * 4 * times)
    assert shake(times, path + np.stack([wobble, 0 * wobble], axis=1)) == pytest.approx(0.01 / 2**0.5, rel=0.15)
