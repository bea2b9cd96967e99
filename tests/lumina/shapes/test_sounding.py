"""Shapes with sound: what is heard begins when what is seen happens, and says which shape it was."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from lumina.randomness import generator
from lumina.shapes import COLORS, KINDS, PITCHES_HZ, SOURCES, SoundEvent, film, measure, render, sound_caption, waveform
from lumina.shapes import sample_sound_scene as sample
from lumina.shapes.sounding import GAP_S, SoundScene
from lumina.shapes.tones import OFF_SCREEN_HZ, SAMPLE_RATE

FPS = 25


def scenes(count: int, **given: str) -> list[SoundScene]:
    return [sample(generator(3, "test/sounding", index), **given) for index in range(count)]  # type: ignore[arg-type]


def onsets(wave: NDArray[np.float32]) -> list[float]:
    """When the sound becomes at least twice as loud within 5 ms."""
    power = np.square(wave[: len(wave) // 80 * 80].reshape(-1, 80)).mean(axis=1)
    rises: list[int] = []
    for block in range(1, len(power)):
        if power[block] > max(4 * power[block - 1], 1e-4) and (not rises or block > rises[-1] + 40):
            rises.append(block)
    return [block * 80 / SAMPLE_RATE for block in rises]


def pitch(wave: NDArray[np.float32], time_s: float) -> float:
    part = wave[round(time_s * SAMPLE_RATE) :][:2048]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16384))
    return float(spectrum.argmax() * SAMPLE_RATE / 16384)


def test_what_is_heard_is_what_the_scene_says() -> None:
    heard = 0
    for scene in scenes(40):
        wave = waveform(scene.events(4.0), 4.0)
        assert (wave.shape, wave.dtype) == ((64000,), np.float32)
        told = scene.truth(4.0)["events"]
        if scene.off_screen:
            continue  # tones that overlap are told apart below
        found = onsets(wave)
        assert found == pytest.approx([event["time_s"] for event in told], abs=0.006)
        for event in told:
            heard += 1
            if event["time_s"] < 3.8:
                named = min(PITCHES_HZ, key=lambda name: abs(PITCHES_HZ[name] - pitch(wave, event["time_s"])))
                assert named == event["color"]
        silent = np.ones(64000, bool)
        for event in told:
            silent[round(event["time_s"] * SAMPLE_RATE) - 1 :][: SAMPLE_RATE // 2 + 2] = False
        assert not wave[silent].any()
    assert heard > 50


def _centers(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(x, y) of the coloured pixels of each frame, in shares of the frame."""
    chroma = frames.max(axis=-1).astype(float) - frames.min(axis=-1)
    chroma = np.where(chroma > 90, 1.0, 0.0)
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]] / frames.shape[1]
    weights = chroma.sum(axis=(1, 2))
    return np.stack([(chroma * columns).sum(axis=(1, 2)), (chroma * rows).sum(axis=(1, 2))], -1) / weights[:, None]


def test_a_hop_is_seen_in_the_first_frame_after_its_time() -> None:
    for scene in scenes(30, motion="hop"):
        if len(scene.shapes) > 1:
            continue
        frames = render(scene, num_frames=75, height=48, width=48, fps=FPS)
        moved = np.abs(np.diff(_centers(frames), axis=0)).max(axis=1) > 0.1
        seen = [event.time_s for event in scene.events(74 / FPS) if event.color is not None]
        assert (np.flatnonzero(moved) + 1).tolist() == [int(np.ceil(time * FPS)) for time in seen]


def test_a_bounce_touches_the_floor_at_its_time_and_only_then() -> None:
    for scene in scenes(20, motion="bounce"):
        actor = scene.shapes[-1]
        t = np.arange(0, 4, 0.001)
        _, y = actor.center(t, 100, 100)
        floor = actor.places[0][1] * 100
        lowest = [float(t[i]) for i in range(1, len(t) - 1) if y[i] >= y[i - 1] and y[i] > y[i + 1]]
        assert lowest == pytest.approx([time for time in actor.times_s if time < 3.999], abs=0.0015)
        assert y.max() <= floor + 1e-9
        assert y.min() >= 100 * actor.radius  # it stays in the picture
        assert all(GAP_S[0] <= after - before <= GAP_S[1] for before, after in pairwise(actor.times_s))


def test_glides_and_still_shapes_make_no_sound_and_stay_in_the_picture() -> None:
    for motion in ("glide", "still"):
        for scene in scenes(15, motion=motion):
            assert not [event for event in scene.events(10) if event.color is not None]
            x, y = scene.shapes[-1].center(np.arange(0, 12, 0.04), 100, 100)
            radius = 100 * scene.shapes[-1].radius
            assert min(x.min(), y.min()) >= radius
            assert max(x.max(), y.max()) <= 100 - radius
            assert (np.ptp(x) + np.ptp(y) > 0) == (motion == "glide")


def test_scenes_are_of_every_kind() -> None:
    drawn = scenes(400)
    share = Counter(scene.shapes[-1].motion for scene in drawn)
    assert set(share) == {"hop", "bounce", "glide", "still"}
    assert 120 < share["hop"] < 200
    assert 120 < share["bounce"] < 200
    assert 30 < sum(bool(scene.off_screen) for scene in drawn) < 90
    assert 50 < sum(len(scene.shapes) == 2 for scene in drawn) < 110
    assert {shape.color for scene in drawn for shape in scene.shapes} == set(COLORS) == set(PITCHES_HZ)
    assert {shape.kind for scene in drawn for shape in scene.shapes} == set(KINDS)
    for scene in drawn:
        assert all(shape.motion == "glide" and shape.color != scene.shapes[-1].color for shape in scene.shapes[:-1])
    for scene in drawn[:60]:
        assert np.abs(waveform(scene.events(10), 10)).max(initial=0) < 1
    heard = next(scene for scene in drawn if scene.off_screen).truth(10)["events"]
    assert {event["pitch_hz"] for event in heard if not event["seen"]} == {OFF_SCREEN_HZ}
    one = sample(generator(0, "x"), motion="bounce", color="red", kind="circle").shapes[-1]
    assert (one.motion, one.color, one.kind) == ("bounce", "red", "circle")


def test_a_shorter_clip_is_the_beginning_of_a_longer_one() -> None:
    scene = scenes(1, motion="hop")[0]
    long, short = (waveform(scene.events(duration), duration) for duration in (8.0, 2.0))
    assert np.array_equal(long[:32000], short)
    assert [event.time_s for event in scene.events(2.0)] == [e.time_s for e in scene.events(8.0) if e.time_s < 2]


def test_timbres_tell_the_kinds_apart() -> None:
    waves = [waveform([SoundEvent(0.1, 400, kind, "red", 0.5)], 1.0) for kind in KINDS]
    assert all(np.abs(a - b).max() > 0.05 for a, b in zip(waves, [*waves[1:], waves[0]], strict=True))
    with pytest.raises(ValueError, match="add up to a peak of"):
        waveform([SoundEvent(0.1, 400, "circle", "red", 0.8)] * 2, 1.0)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_films_them(name: str) -> None:
    scene = sample(generator(4, "test/filmed"), motion="still", color="green", kind="square")
    frames = film(scene, SOURCES[name], generator(1, "x"), num_frames=8, height=96, width=96, fps=FPS)
    [found] = [shape for shape in measure(frames, FPS).shapes if shape.color == "green"]
    assert found.kind == "square"


def test_captions_say_who_moves_how() -> None:
    for scene in scenes(60):
        text = sound_caption(scene, generator(0, "test/caption"))
        assert text[0].isupper()
        assert text.endswith(f"before a {scene.background.brightness} background.")
        for shape in scene.shapes:
            assert f"{shape.color} {shape.kind} " in text
        assert ("bounces" in text) == (scene.shapes[-1].motion == "bounce")


def test_the_same_scenes_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from lumina.randomness import generator\n"
        "from lumina.shapes import render, sample_sound_scene, waveform\n"
        "scene = sample_sound_scene(generator(9, 'test/again'), motion='bounce')\n"
        "frames = render(scene, num_frames=9, height=32, width=32, fps=9)\n"
        "print(hashlib.sha256(frames.tobytes() + waveform(scene.events(2), 2).tobytes()).hexdigest())\n"
    )
    scene = sample(generator(9, "test/again"), motion="bounce")
    frames = render(scene, num_frames=9, height=32, width=32, fps=9)
    known = hashlib.sha256(frames.tobytes() + waveform(scene.events(2), 2).tobytes()).hexdigest()
    command = [sys.executable, "-c", code]
    told = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == known
