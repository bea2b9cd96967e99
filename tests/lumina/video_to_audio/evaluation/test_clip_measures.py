"""Measures of a sound: of the true one, of late, silent and hissing ones, and of a clip of which nothing is known."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from lumina.randomness import generator
from lumina.shapes import sample_sound_scene, tones
from lumina.video_to_audio.evaluation.clip_measures import Clip, measure, mel_of
from lumina.video_to_audio.evaluation.figures import FIGURES
from lumina.video_to_audio.evaluation.known_events import KnownEvents, known_events
from lumina.video_to_audio.log_mel import prepare
from lumina.video_to_audio.waveforms import from_pcm16, to_pcm16

KNOWN = [*tones.PITCHES_HZ.values(), tones.OFF_SCREEN_HZ]
LENGTH_S, FRAMES = 4.0, 400


def world(number: int) -> tuple[Tensor, Clip]:
    """A scene's sound, as the codec knows it, and what is to be said of it; motion peaks where it is seen."""
    scene = sample_sound_scene(generator(0, "measured", number), motion="hop")
    extra = json.dumps({"scene": json.dumps(scene.truth(LENGTH_S))})
    events = known_events(extra, LENGTH_S)
    assert events is not None
    wave = prepare(torch.from_numpy(tones.waveform(scene.events(LENGTH_S), LENGTH_S)), FRAMES)
    wave = from_pcm16(to_pcm16(wave))
    peaks = tuple(time for time, seen in zip(events.times_s, events.seen, strict=True) if seen)
    return wave, Clip(LENGTH_S, peaks, 25.0, events, mel_of(wave, FRAMES))


def figures(wave: Tensor, clip: Clip) -> dict[str, float]:
    row, _ = measure(wave, clip, KNOWN, -50.0)
    parts = {name: figure.parts(row) for name, figure in FIGURES.items()}
    return {name: two[0] / two[1] for name, two in parts.items() if two is not None and two[1]}


def test_the_true_sound_is_right_in_everything() -> None:
    for number in range(8):
        wave, clip = world(number)
        found = figures(wave, clip)
        for name in (
            "onset_f1_50ms",
            "onset_f1_micro_50ms",
            "onset_f1_seen_50ms",
            "class_acc_matched",
            "class_acc_all",
        ):
            assert found[name] == 1, (number, name)
        assert found["mel_l1"] == 0
        assert found["av_align_v2025_excess"] > 0


def test_what_is_late_of_another_pitch_or_absent_is_told_apart() -> None:
    wave, clip = world(1)
    assert clip.events is not None
    late = figures(torch.cat([torch.zeros(1600), wave])[: len(wave)], clip)
    assert late["onset_f1_50ms"] < 0.2
    other = tones.waveform([tones.SoundEvent(t, 930.0, "circle", "cyan", 0.4) for t in clip.events.times_s], LENGTH_S)
    wrong = figures(torch.from_numpy(other), clip)
    assert wrong["onset_f1_50ms"] == 1
    assert wrong["class_acc_all"] == sum(hertz == 930.0 for hertz in clip.events.pitches_hz) / len(clip.events.times_s)
    silent = figures(torch.zeros(len(wave)), clip)
    assert (silent["onset_f1_50ms"], silent["onset_precision_50ms"], silent["class_acc_all"]) == (0, 1, 0)
    assert "class_acc_matched" not in silent


def test_a_hiss_that_nobody_hears_has_no_onsets() -> None:
    wave, clip = world(2)
    hiss = 10 ** (-60 / 20) * torch.from_numpy(generator(0, "hiss").standard_normal(len(wave)).astype("float32"))
    assert figures(wave + hiss, clip)["onset_f1_50ms"] == 1
    unknown = Clip(LENGTH_S, clip.peaks, 25.0, KnownEvents((), (), ()), clip.mel)
    row, _ = measure(hiss, unknown, KNOWN, -50.0)
    assert (row["onsets"], FIGURES["onset_f1_50ms"].parts(row)) == (0, (1.0, 1.0))
    # AV-Align is as released, and counts them.
    assert row["av_align_onsets"] > 10


def test_of_an_unknown_clip_the_rest_is_measured() -> None:
    wave, clip = world(3)
    row, mel = measure(wave, Clip(LENGTH_S, clip.peaks, 25.0, None, clip.mel), KNOWN, -50.0)
    assert mel.shape == (FRAMES, 64)
    assert "events" not in row
    assert row["av_align"] == figures(wave, clip)["av_align_v2025"]


def test_scenes_are_read_as_text_or_json_and_end_with_the_sound() -> None:
    truth = {"events": [{"time_s": t, "pitch_hz": 400.0, "seen": t < 1} for t in (2.0, 0.5, 1.5)]}
    expected = KnownEvents((0.5, 1.5), (400.0, 400.0), (True, False))
    assert known_events(json.dumps({"scene": json.dumps(truth)}), 2.0) == expected
    assert known_events(json.dumps({"scene": truth}), 2.0) == expected
    assert known_events(json.dumps({"scene": {"events": []}}), 2.0) == KnownEvents((), (), ())
    for extra in (None, "{}", json.dumps({"scene": json.dumps([{"color": "red"}])}), json.dumps({"split": "test"})):
        assert known_events(extra, 2.0) is None
    with pytest.raises(ValueError, match=r"scene\.events must each have time_s"):
        known_events(json.dumps({"scene": {"events": [{"time_s": 1}]}}), 2.0)
