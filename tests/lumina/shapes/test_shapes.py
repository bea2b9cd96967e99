"""The Shapes world says the truth: what is measured in the frames is what the scene and its caption say."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.randomness import generator
from lumina.shapes import (
    COLORS,
    KINDS,
    SOURCES,
    STRONG,
    Scene,
    SpeedTold,
    caption,
    film,
    measure,
    optical_flow,
    render,
    sample_scene,
)

Facts = list[tuple[str, str, str, str]]


def facts(shapes: tuple) -> Facts:
    return sorted((s.color, s.kind, s.direction, s.speed) for s in shapes)


def clip(scene: Scene) -> np.ndarray:
    return render(scene, num_frames=16, height=64, width=64, fps=8)


def test_measure_finds_150_scenes_back() -> None:
    """If one scene in fifty were lost, 95 of 100 such tests would fail."""
    for index in range(150):
        scene = sample_scene(generator(0, "test/measure", index))
        assert facts(measure(clip(scene), 8).shapes) == facts(scene.shapes), index


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_the_scene_measurable(name: str) -> None:
    right = 0
    for index in range(40):
        rng = generator(1, "test/source", index)
        scene = sample_scene(rng)
        frames = film(scene, SOURCES[name], rng, num_frames=16, height=96, width=96, fps=8)
        right += facts(measure(frames, 8).shapes) == facts(scene.shapes)
    assert right >= 38


def _shares_right(name: str, clips: int = 24) -> dict[str, float]:
    """Of the strong source's clips of one shape, by what is measured at the size that the demo trains at."""
    right = {"color": 0, "kind": 0, "direction": 0}
    for index in range(clips):
        rng = generator(1, "test/strong", index)
        scene = sample_scene(rng, num_shapes=1)
        frames = film(scene, STRONG[name], rng, num_frames=16, height=64, width=64, fps=8)
        shapes = measure(frames, 8).shapes
        for what in right:
            right[what] += bool(shapes) and getattr(shapes[0], what) == getattr(scene.shapes[0], what)
    return {what: count / clips for what, count in right.items()}


def test_strong_flaws_hide_what_a_clip_shows() -> None:
    """A drifting camera hides where shapes go, an upload of a few pixels which ones they are; colours are kept."""
    shaky, uploaded = _shares_right("handheld"), _shares_right("web")
    assert shaky["direction"] <= 0.75
    assert uploaded["kind"] <= 0.95
    assert min(shaky["color"], uploaded["color"]) >= 0.95
    assert STRONG["web"].wrong_captions >= 2 * SOURCES["web"].wrong_captions
    assert STRONG["synthetic"] is SOURCES["synthetic"]


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("count", [1, 2, 17])
def test_strong_sources_film_any_number_of_frames(name: str, count: int) -> None:
    scene = sample_scene(generator(2, "test/strong"))
    frames = film(scene, STRONG[name], generator(1, "x"), num_frames=count, height=48, width=80, fps=8)
    assert frames.shape == (count, 48, 80, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize(("height", "width", "fps"), [(48, 80, 12), (120, 90, 24)])
def test_any_size_and_rate(height: int, width: int, fps: float) -> None:
    scene = sample_scene(generator(2, "test/size"), num_shapes=1)
    frames = render(scene, num_frames=round(2 * fps), height=height, width=width, fps=fps)
    assert frames.shape == (round(2 * fps), height, width, 3)
    assert facts(measure(frames, fps).shapes) == facts(scene.shapes)


@given(st.integers(0, 2**32), st.sampled_from(sorted(COLORS)), st.sampled_from(KINDS))
def test_what_is_asked_for_is_in_the_scene_and_in_its_caption(seed: int, color: str, kind: str) -> None:
    rng = generator(seed, "test/asked")
    scene = sample_scene(rng, color=color, kind=kind)
    assert (scene.shapes[0].color, scene.shapes[0].kind) == (color, kind)
    text = caption(scene, rng, speed="always")
    for shape in scene.shapes:
        assert f"{shape.color} {shape.kind}" in text
        assert (shape.direction == "still") == (shape.speed == "still")


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="contradicts"):
        sample_scene(generator(0, "test"), direction="still", speed="fast")
    with pytest.raises(ValueError, match="color must be one of red"):
        sample_scene(generator(0, "test"), color="beige")


def test_flow_carries_a_frame_onto_the_next() -> None:
    scene = sample_scene(generator(4, "test/flow"), num_shapes=1, direction="right", speed="fast")
    frames = render(scene, num_frames=2, height=96, width=96, fps=4).astype(np.float32)
    flow = optical_flow(scene, num_frames=2, height=96, width=96, fps=4)
    assert flow.shape == (1, 2, 96, 96)
    step = scene.shapes[0].velocity * 96 / 4
    assert flow[0, 0].max() == pytest.approx(step)
    assert not flow[0, 1].any()
    y, x = np.nonzero(flow[0, 0])
    landed = np.minimum(np.rint(x + step).astype(int), 95)
    moved = np.abs(frames[1, y, landed] - frames[0, y, x]).mean()
    stayed = np.abs(frames[1, y, x] - frames[0, y, x]).mean()
    assert moved < 0.2 * stayed


def test_nothing_coloured_measures_as_nothing() -> None:
    assert measure(np.full((8, 64, 64, 3), 90, np.uint8), 8).shapes == ()


def test_speeds_do_not_depend_on_the_kernel_that_blas_takes() -> None:
    code = (
        "from lumina.randomness import generator\n"
        "from lumina.shapes import measure, render, sample_scene\n"
        "for index in range(16):\n"
        "    scene = sample_scene(generator(3, 'test/kernel', index))\n"
        "    frames = render(scene, num_frames=16, height=64, width=64, fps=8)\n"
        "    print([shape.speed_value for shape in measure(frames, 8).shapes])\n"
    )
    own = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    found = [
        subprocess.run([sys.executable, "-c", code], env={**own, **kernel}, capture_output=True, check=True).stdout
        for kernel in ({}, {"OPENBLAS_CORETYPE": "Haswell"})
    ]
    assert found[0] == found[1]


def test_the_speed_can_be_left_to_the_motion_score() -> None:
    scene = sample_scene(generator(4, "test/told"), num_shapes=1, direction="left", speed="fast")
    words = ("fast", "quickly")

    def telling(speed: SpeedTold) -> int:
        texts = [caption(scene, generator(n, "test/told"), speed=speed) for n in range(50)]
        return sum(any(word in text for word in words) for text in texts)

    assert telling("always") == 50
    assert telling("never") == 0
    assert 30 <= telling("mostly") < 50
