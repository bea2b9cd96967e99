from __future__ import annotations

import io
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from curation.audio import ClipAudio, clip_audio, read_audio
from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.film_frames import Track
from curation.operator import Env
from curation.schema import Reason, RowError, Status
from curation.video_files import probe_video, read_video
from tests.curation.audible import CLICKS, Heard, clicks, found_clicks, noise, tear, write
from tests.curation.numbered import number_of

LONG = [Fraction(index, 25) for index in range(150)]


def heard(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> ClipAudio:
    probe = probe_video(path)
    assert probe.track is not None
    return read_audio(path, Track.parse(probe.track), start_s, duration_s or probe.duration_s)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "layout", "within_s"),
    [
        (".mkv", "pcm_s16le", 16000, "mono", 2e-5),
        (".mov", "pcm_s16le", 8000, "stereo", 2e-5),
        (".mkv", "pcm_u8", 11025, "mono", 1e-4),
        (".mkv", "pcm_f32le", 48000, "quad", 2e-5),
        (".mkv", "pcm_s24le", 192000, "mono", 2e-5),
        (".mkv", "flac", 96000, "5.1", 2e-5),
        (".mp4", "alac", 44100, "stereo", 2e-5),
        (".mp4", "aac", 44100, "stereo", 1e-4),
        (".mp4", "aac", 96000, "5.1", 1e-4),
        (".mp4", "aac", 8000, "mono", 1e-4),
        (".mp4", "libmp3lame", 44100, "stereo", 1e-4),
        (".mkv", "libopus", 48000, "stereo", 1e-4),
        (".mkv", "ac3", 48000, "5.1", 1e-4),
        (".ts", "mp2", 32000, "stereo", 1e-4),
        (".avi", "pcm_s16le", 22050, "stereo", 1e-4),
        # Its stamps are whole milliseconds.
        (".flv", "aac", 44100, "stereo", 1e-3),
    ],
)
def test_clicks_of_any_codec_rate_and_layout_are_where_they_were_put(
    tmp_path: Path, suffix: str, codec: str, rate: int, layout: str, within_s: float
) -> None:
    film = Heard(clicks(rate, 2.0), rate, codec, layout, vcodec="mpeg4" if suffix == ".avi" else "libx264")
    found = heard(write(tmp_path / f"film{suffix}", film))
    assert (found.waveform.shape, found.waveform.dtype) == ((32000,), np.float32)
    assert found_clicks(found.waveform) == pytest.approx(CLICKS, abs=within_s)
    assert np.abs(found.waveform).max() == pytest.approx(0.6, abs=0.06)
    assert found.cover == pytest.approx(1, abs=0.01)
    assert (found.track.rate, found.track.tracks, found.track.start_s) == (rate, 1, pytest.approx(0, abs=0.03))


def test_pcm_of_the_same_rate_is_what_another_decoder_reads(tmp_path: Path) -> None:
    samples = np.random.Generator(np.random.Philox(5)).integers(-(2**15), 2**15, 32000).astype("<i2")
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    with wave.open(io.BytesIO(held.getvalue())) as file:
        known = np.frombuffer(file.readframes(32000), "<i2")
    found = heard(write(tmp_path / "film.mkv", Heard(known / 2.0**15, 16000)))
    assert np.array_equal(found.waveform * 2**15, known)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
def test_a_tone_survives_resampling(tmp_path: Path, rate: int) -> None:
    at = np.arange(2 * rate) / rate
    found = heard(write(tmp_path / "film.mkv", Heard(0.5 * np.sin(2 * np.pi * 440 * at), rate, "pcm_f32le")))
    true = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    assert np.abs(found.waveform - true)[400:-400].max() < 2e-3
    # What lies above the new rate's half is gone, and not folded to below it.
    high = 0.5 * np.sin(2 * np.pi * 0.45 * rate * at)
    folded = heard(write(tmp_path / "high.mkv", Heard(high, rate, "pcm_f32le"))).waveform
    assert (np.abs(folded)[400:-400].max() < 2e-3) == (rate > 0.9 * 20000)


def test_the_mix_of_channels_keeps_every_speaker_but_the_subwoofer(tmp_path: Path) -> None:
    apart = np.zeros((6, 96000))
    for channel in range(6):
        apart[channel] = clicks(48000, 2.0, [0.2 + 0.3 * channel], 0.8)
    found = heard(write(tmp_path / "film.mkv", Heard(apart, 48000, "flac", "5.1"))).waveform
    # Left, right, middle, subwoofer, behind on the left, behind on the right.
    levels = [
        float(np.abs(found[round((0.15 + 0.3 * k) * 16000) : round((0.25 + 0.3 * k) * 16000)]).max()) for k in range(6)
    ]
    weights = np.array([0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5])
    assert levels == pytest.approx(0.8 * weights / weights.sum(), abs=0.01)


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "flac"), (".mp4", "alac"), (".mp4", "aac"), (".ts", "aac")])
@pytest.mark.parametrize(
    ("audio_start_s", "video_start_s"),
    [(Fraction(1, 2), Fraction(0)), (Fraction(0), Fraction(1, 2)), (Fraction(5, 4), Fraction(7, 5))],
)
def test_times_are_the_films_whatever_starts_first(
    tmp_path: Path, suffix: str, codec: str, audio_start_s: Fraction, video_start_s: Fraction
) -> None:
    film = Heard(clicks(48000, 2.0), codec=codec, audio_start_s=audio_start_s, video_start_s=video_start_s)
    found = heard(write(tmp_path / f"film{suffix}", film))
    later = float(audio_start_s - video_start_s)
    known = [time + later for time in CLICKS if 0 <= time + later < 2]
    # An edit list of mp4 has whole milliseconds.
    assert found_clicks(found.waveform) == pytest.approx(known, abs=1e-3)
    assert found.track.start_s == pytest.approx(later, abs=0.03)
    assert found.cover == pytest.approx(1 - abs(later) / 2, abs=0.02)
    silent = (
        found.waveform[: round(later * 16000) - 500]
        if later > 0
        else found.waveform[round((2 + later) * 16000) + 500 :]
    )
    assert np.abs(silent).max() < 1e-3


@pytest.mark.parametrize(("duration_s", "cover"), [(4.0, 1.0), (1.0, 0.5)])
def test_sound_longer_or_shorter_than_the_film(tmp_path: Path, duration_s: float, cover: float) -> None:
    found = heard(write(tmp_path / "film.mp4", Heard(clicks(48000, duration_s), codec="alac")))
    assert found_clicks(found.waveform) == pytest.approx([time for time in CLICKS if time < duration_s], abs=1e-4)
    assert len(found.waveform) == 32000
    assert found.cover == pytest.approx(cover)
    assert found.track.end_s == pytest.approx(duration_s)


def test_a_gap_in_the_track_is_silence_and_what_follows_keeps_its_time(tmp_path: Path) -> None:
    found = heard(write(tmp_path / "film.mkv", Heard(clicks(48000, 2.0), gaps=[(0.5, 1.0)])))
    assert found_clicks(found.waveform) == pytest.approx([0.25, 1.125, 1.6], abs=1e-3)
    assert found.cover == pytest.approx(0.75, abs=0.02)


def test_sound_and_frames_agree_in_a_film_of_variable_rate(tmp_path: Path) -> None:
    stamps = [Fraction(round(1000 * time), 1000) for time in np.cumsum(np.tile([0.02, 0.11, 0.05], 10))]
    stamps = [stamp - stamps[0] for stamp in stamps]
    shown = (4, 13, 22)
    film = Heard(
        clicks(48000, 2.0, [float(stamps[number]) for number in shown]), codec="flac", stamps=stamps,
        video_start_s=Fraction(3, 10), audio_start_s=Fraction(3, 10),
    )  # fmt: skip
    path = write(tmp_path / "film.mkv", film)
    track = Track.parse(probe_video(path).track or "")
    times = found_clicks(heard(path).waveform)
    frames = read_video(path, track, [time + 0.005 - track.interval_s / 2 for time in times])
    assert [number_of(image) for image in frames.pixels] == list(shown)


@pytest.mark.parametrize("codec", ["alac", "aac", "libmp3lame"])
def test_a_span_sounds_as_the_same_part_of_the_whole(tmp_path: Path, codec: str) -> None:
    # Of noise AAC keeps the level alone, and makes up another one each time.
    at = np.arange(6 * 48000) / 48000
    wave = 0.4 * np.sin(2 * np.pi * (300 * at + 100 * at**2))
    path = write(tmp_path / "film.mp4", Heard(wave, codec=codec, stamps=LONG))
    whole, span = heard(path), heard(path, 3.5, 1.25)
    assert np.abs(span.waveform - whole.waveform[56000:76000]).max() < 1e-4
    assert span.cover == 1
    assert heard(path, 5.5, 1.0).cover == pytest.approx(0.5, abs=0.03)
    assert heard(path, 9.0, 1.0).cover == 0


def test_a_span_of_a_codec_that_finds_its_feet_slowly(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mkv", Heard(clicks(48000, 6.0, [3.6, 4.5]), codec="libopus", stamps=LONG))
    # Matroska's stamps are whole milliseconds.
    assert found_clicks(heard(path, 3.5, 1.25).waveform) == pytest.approx([0.1, 1.0], abs=1e-3)


def test_the_same_bits_every_time_and_from_the_decoding_process(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", Heard(clicks(44100, 2.0), 44100, "aac", "stereo"))
    decoder = Decoder(DecodeLimits())
    probe = probe_video(path)
    row = {"uri": "film.mp4", "track": probe.track, "span_start_s": None, "duration_s": 2.0}
    first, second = (clip_audio(decoder, row, Env(str(tmp_path))) for _ in range(2))
    assert first.waveform.tobytes() == second.waveform.tobytes() == heard(path).waveform.tobytes()
    assert first.track == second.track == heard(path).track
    assert len(clip_audio(decoder, row, Env(str(tmp_path)), 0.5).waveform) == 8000
    high = clip_audio(decoder, row, Env(str(tmp_path)), rate=22050).waveform
    assert found_clicks(high, 22050) == pytest.approx(CLICKS, abs=1e-4)
    decoder.close()


def _refused(path: Path) -> RowError:
    with pytest.raises(RowError) as caught:
        heard(path)
    return caught.value


def test_no_track_and_broken_tracks_say_so(tmp_path: Path) -> None:
    none = _refused(write(tmp_path / "none.mp4", Heard()))
    assert (none.reason, none.status) == (Reason.NO_AUDIO_STREAM, Status.FILTERED)
    error = _refused(tear(write(tmp_path / "torn.mkv", Heard(noise(4, 96000), codec="flac"))))
    assert (error.reason, error.status) == (Reason.DECODE_ERROR, Status.QUARANTINED)
    infinite = clicks(48000, 2.0)
    infinite[48000] = np.inf
    assert _refused(write(tmp_path / "inf.mkv", Heard(infinite, codec="pcm_f32le"))).reason == Reason.NOT_FINITE


def test_a_wave_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000))
    with pytest.raises(RowError, match="its format is none that is read as a video") as caught:
        probe_video(path)
    assert caught.value.reason == Reason.DECODE_ERROR


def test_samples_beyond_full_scale_are_cut(tmp_path: Path) -> None:
    found = heard(write(tmp_path / "loud.mkv", Heard(4 * clicks(16000, 2.0), 16000, "pcm_f32le")))
    assert np.abs(found.waveform).max() == 1
