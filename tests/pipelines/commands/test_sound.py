"""`lumina sound`: a clip and its sound in one MP4, the sound beside it, and what is no clip."""

from __future__ import annotations

import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from lumina.audio_tracks import AudioTrack, write_wav
from pipelines import cli
from tests.curation.audible import Heard, clicks
from tests.curation.audible import write as write_heard
from tests.curation.numbered import Film, write
from tests.lumina import tiny
from tests.lumina.video_to_audio.tiny_sound import save_sound_model

CLIP = Film(b_frames=2, stamps=Film().stamps[:24])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sound_model(tmp_path_factory.mktemp("sound") / "exported")


def sound(clip: Path, model: Path, out: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["sound", str(clip), "--checkpoint", str(model), "--out", str(out), *more])
    return done.exit_code, done.output


def samples(path: Path) -> NDArray[np.float64]:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32_768


def test_a_clip_gets_a_track_and_a_wav_and_keeps_its_frames(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", CLIP)
    code, output = sound(tmp_path / "clip.mp4", model, tmp_path / "new" / "a.mp4", "--prompt", "a oil", "--seed", "3")
    assert (code, "1.00 s, h264 copied; the sound alone is" in output) == (0, True), output
    heard = samples(tmp_path / "new" / "a.wav")
    assert len(heard) == 16_000
    with av.open(str(tmp_path / "clip.mp4")) as one, av.open(str(tmp_path / "new" / "a.mp4")) as two:
        for was, now in zip(one.decode(video=0), two.decode(video=0), strict=True):
            assert np.array_equal(was.to_ndarray(), now.to_ndarray())
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        [track] = container.streams.audio
        assert (track.codec_context.name, track.rate, track.start_time) == ("aac", 16_000, 0)
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(track) if frame.pts >= 0])
    # The lag at which the track fits the WAV best is none.
    lags = range(-200, 201)
    fits = [float(np.dot(heard[400:15_000], decoded[400 + lag : 15_000 + lag])) for lag in lags]
    assert abs(lags[int(np.argmax(fits))]) <= 1
    for name, more in (("b", ("--prompt", "a oil", "--seed", "3")), ("c", ("--prompt", "a oil", "--seed", "4"))):
        assert sound(tmp_path / "clip.mp4", model, tmp_path / "new" / f"{name}.mp4", *more)[0] == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert set(files) == {f"{name}.{kind}" for name in "abc" for kind in ("mp4", "wav")}
    assert (files["a.mp4"], files["a.wav"]) == (files["b.mp4"], files["b.wav"])
    assert files["a.wav"] != files["c.wav"]


def test_a_sound_that_was_there_is_replaced(model: Path, tmp_path: Path) -> None:
    clip = write_heard(tmp_path / "clip.mkv", Heard(clicks(48000, 2.0), layout="5.1", video_start_s=Fraction(1, 2)))
    code, output = sound(clip, model, tmp_path / "a.mp4")
    assert code == 0, output
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert container.streams.audio[0].layout.name == "mono"
    assert len(samples(tmp_path / "a.wav")) == 32_000


TONE = 0.5 * np.sin(2 * np.pi * 500 * np.arange(96_000) / 48_000)
TRACKS = {
    "none": Heard(),
    "silent at 8 kHz": Heard(0 * TONE[::6], 8_000),
    "5.1, ends early": Heard(TONE[:24_000], codec="flac", layout="5.1"),
    "96 kHz, begins late, ends late": Heard(
        np.repeat(np.tile(TONE, 2), 2), 96_000, "flac", sample_format="s32", audio_start_s=Fraction(1, 2)
    ),
}


def test_whatever_sound_a_clip_had_it_gets_that_of_its_frames(model: Path, tmp_path: Path) -> None:
    waves = {}
    for name, film in TRACKS.items():
        out = tmp_path / f"{name}.mp4"
        code, output = sound(write_heard(tmp_path / f"{name}.mkv", film), model, out)
        assert (code, ": 2.00 s, h264 copied; " in output) == (0, True), output
        waves[name] = out.with_suffix(".wav").read_bytes()
        with av.open(str(out)) as container:
            assert [(stream.type, stream.start_time) for stream in container.streams] == [("video", 0), ("audio", 0)]
            assert float(container.duration) / av.time_base == pytest.approx(2, abs=0.07)
    assert {name for name, wave in waves.items() if wave != waves["none"]} == set()


def test_a_film_of_a_variable_rate_keeps_its_times(model: Path, tmp_path: Path) -> None:
    stamps = [Fraction(at, 100) for at in (0, 4, 8, 30, 34, 90, 92, 94, 130)]
    clip = write_heard(tmp_path / "clip.mkv", Heard(TONE, stamps=stamps))
    assert sound(clip, model, tmp_path / "a.mp4")[0] == 0
    times = {}
    for file in (clip, tmp_path / "a.mp4"):
        with av.open(str(file)) as container:
            times[file.name] = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times["a.mp4"] == pytest.approx(times["clip.mkv"], abs=1e-3)
    # As long as the film, whose last frame stands no shorter than one before it.
    assert 1.3 < len(samples(tmp_path / "a.wav")) / 16_000 < 1.9


def test_a_gif_is_encoded_anew(model: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "a.gif",
        Film("gif", pix_fmt="rgb8", rate=Fraction(10), stamps=[Fraction(index, 10) for index in range(9)]),
    )
    code, output = sound(tmp_path / "a.gif", model, tmp_path / "a.mp4")
    assert (code, "gif encoded anew as h264" in output) == (0, True), output


def test_what_is_no_clip_is_one_clear_line_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", CLIP)
    write(tmp_path / "short.mp4", replace(CLIP, stamps=CLIP.stamps[:12]))
    write(tmp_path / "long.mp4", replace(CLIP, stamps=[Fraction(index, 4) for index in range(44)], rate=Fraction(4)))
    write_wav(tmp_path / "wave.mp4", AudioTrack(np.zeros(16_000, np.float32)))
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "broken.mp4").write_bytes(content[: len(content) // 4])
    (tmp_path / "empty.mp4").touch()
    Image.new("RGB", (64, 48)).save(tmp_path / "still.png")
    tiny.text_to_video().save_pretrained(tmp_path / "video")
    (tmp_path / "file").touch()
    before = {path.name for path in tmp_path.iterdir()}
    for name, text in (
        ("short.mp4", "short.mp4: a sound needs a clip of 0.64 s or longer, got 0.5 s"),
        ("long.mp4", "long.mp4: a sound needs a clip of 10 s or shorter, got 11 s: cut it first"),
        ("wave.mp4", "wave.mp4: decode_error: "),
        ("broken.mp4", "broken.mp4: decode_error: "),
        ("empty.mp4", "empty.mp4: "),
        ("still.png", "still.png is an image: a sound needs a video"),
        ("none.mp4", "none.mp4 is no file: give a video"),
    ):
        code, output = sound(tmp_path / name, model, tmp_path / "out.mp4")
        assert (code, text in output, output.count("\n")) == (1, True, 1), output
    for checkpoint, out, text in (
        (tmp_path / "video", "out.mp4", "video is a text-to-video checkpoint, which makes no sound"),
        (tmp_path / "none", "out.mp4", "none is no folder"),
        (model, "out.mkv", "out.mkv: expected a file name that ends in .mp4"),
        (model, "clip.mp4", "clip.mp4 is the clip itself: name another file"),
        (model, "file/out.mp4", "cannot be written: "),
    ):
        code, output = sound(tmp_path / "clip.mp4", checkpoint, tmp_path / out)
        assert (code, text in output, output.count("\n")) == (1, True, 1), output
    assert {path.name for path in tmp_path.iterdir()} == before
