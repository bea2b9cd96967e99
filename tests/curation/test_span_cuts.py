"""Spans cut out of films: the frames by their numbers, read by OpenCV; copied where a key frame begins the span."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.schema import Reason, RowError
from curation.span_cuts import Cut, cut_span
from lumina.audio_tracks import AudioTrack
from lumina.video import write_h264
from tests.curation.numbered import Film, number_of, picture, write

QUIET = {"x264-params": "scenecut=0"}
PLAIN = Film(gop=12, options=QUIET)
REORDERED = Film(gop=12, b_frames=2, options=QUIET | {"x264-params": "scenecut=0:open-gop=0:bframes=2:b-adapt=0"})


@pytest.fixture(scope="module")
def decoder() -> Any:
    made = Decoder(DecodeLimits())
    yield made
    made.close()


def _cut(decoder: Decoder, path: Path, start: float, end: float) -> tuple[Cut, Path]:
    out = path.with_name("cut.mp4")
    row = asdict(decoder.probe(path, "video", start, end)) | {"span_start_s": start, "span_end_s": end}
    return cut_span(decoder, path, row, out), out


def _numbers(path: Path) -> list[int]:
    """By another library than that which cut, and wrote."""
    film, found = cv2.VideoCapture(str(path)), []
    while True:
        there, image = film.read()
        if not there:
            return found
        found.append(number_of(image[:, :, ::-1]))


@pytest.mark.parametrize(
    ("film", "start", "end", "frames", "why"),
    [
        pytest.param(PLAIN, 0.5, 1.5, range(12, 36), "", id="from a key frame"),
        pytest.param(PLAIN, 0.5, 1.0, range(12, 24), "", id="one group"),
        pytest.param(PLAIN, 1.0, 2.0, range(24, 48), "", id="to the end"),
        pytest.param(PLAIN, 0.0, 0.75, range(18), "", id="from the start"),
        pytest.param(PLAIN, 0.49, 0.99, range(12, 24), "", id="a little before the key frame"),
        pytest.param(PLAIN, 0.625, 1.5, range(15, 36), "begins 3 frames after a key frame", id="inside a group"),
        pytest.param(REORDERED, 0.5, 1.5, range(12, 36), "", id="reordered frames"),
        pytest.param(REORDERED, 0.5, 14.2 / 24, range(12, 14), "shown after its end", id="an end between references"),
        pytest.param(replace(PLAIN, codec="mpeg4", options={}), 0.5, 1.5, range(12, 36), "mpeg4", id="mpeg4"),
        pytest.param(
            replace(PLAIN, container="matroska", time_base=Fraction(1, 1000),
                    stamps=[Fraction(index * index, 1000) for index in range(48)]),
            0.144, 1.296, range(12, 36), "", id="a variable rate",
        ),
    ],
)  # fmt: skip
def test_a_cut_has_the_frames_of_its_span(
    decoder: Decoder, tmp_path: Path, film: Film, start: float, end: float, frames: range, why: str
) -> None:
    path = tmp_path / ("film.mkv" if film.container else "film.mp4")
    write(path, film)
    cut, out = _cut(decoder, path, start, end)
    assert _numbers(out) == list(frames)
    assert cut.copied == (not why)
    assert why in cut.why
    with av.open(str(out)) as container:
        stamps = sorted(float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.size)
    wanted = [float(film.stamps[number] - film.stamps[frames[0]]) for number in frames]
    assert np.allclose(np.array(stamps) - stamps[0], wanted, atol=1.1e-3)


def test_the_same_cut_has_the_same_bytes_and_a_copy_the_packets_of_its_film(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write(path, PLAIN)
    for start in (0.5, 0.625):
        digests = {hashlib.sha256(_cut(decoder, path, start, 1.5)[1].read_bytes()).hexdigest() for _ in range(2)}
        assert len(digests) == 1
    _, out = _cut(decoder, path, 0.5, 1.5)
    with av.open(str(path)) as film, av.open(str(out)) as cut:
        packets = [[bytes(packet) for packet in one.demux(video=0) if packet.size] for one in (film, cut)]
    assert packets[1] == packets[0][12:36]


def test_a_turned_film_stays_turned_and_an_odd_one_is_padded(decoder: Decoder, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    write(turned, replace(PLAIN, matrix=[0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]))
    before = decoder.probe(turned, "video")
    assert before.rotation
    for start, copied in ((0.5, True), (0.625, False)):
        cut, out = _cut(decoder, turned, start, 1.5)
        assert cut.copied is copied
        after = decoder.probe(out, "video")
        assert (after.width, after.height) == (before.width, before.height)
        times = [0.0]
        seen = decoder.frames(out, "video", after.track, times).pixels[0].astype(int)
        wanted = decoder.frames(turned, "video", before.track, [start]).pixels[0].astype(int)
        assert np.abs(seen - wanted).mean() < 3
    odd = tmp_path / "odd.mkv"
    write(odd, replace(PLAIN, codec="ffv1", pix_fmt="yuv444p", size=(129, 95), options={}))
    cut, out = _cut(decoder, odd, 0.5, 1.5)
    assert not cut.copied
    assert "129x95 is padded" in cut.why
    assert _numbers(out) == list(range(12, 36))


@pytest.mark.parametrize("start", [0.5, 0.625])
def test_sound_comes_along_in_step(decoder: Decoder, tmp_path: Path, start: float) -> None:
    path = tmp_path / "film.mp4"
    frames = np.stack([picture(number) for number in range(48)])
    at = np.arange(2 * 44100) / 44100
    click = np.where((at >= 1.25) & (at < 1.3), np.sin(2 * np.pi * 1000 * at), 0).astype(np.float32)
    write_h264(path, frames, 24, preset="ultrafast", sound=AudioTrack(click, 44100))
    cut, out = _cut(decoder, path, start, 1.75)
    assert not cut.copied  # one group of frames
    with av.open(str(out)) as container:
        parts = [(float(frame.pts * frame.time_base), frame.to_ndarray()[0], frame.rate)
                 for frame in container.decode(audio=0)]  # fmt: skip
    rate = parts[0][2]
    heard = [
        begin + np.flatnonzero(np.abs(wave) > 0.3)[0] / rate for begin, wave, _ in parts if np.abs(wave).max() > 0.3
    ]
    assert heard[0] == pytest.approx(1.25 - start, abs=0.03)
    assert parts[-1][0] + len(parts[-1][1]) / rate == pytest.approx(1.75 - start, abs=0.05)


def test_a_film_that_is_cut_off_since_says_so(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    write(path, PLAIN)
    row = asdict(decoder.probe(path, "video", 0.625, 1.5)) | {"span_start_s": 0.625, "span_end_s": 1.5}
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RowError, match="frame") as told:
        cut_span(decoder, path, row, tmp_path / "cut.mp4")
    assert told.value.reason == Reason.DECODE_ERROR
