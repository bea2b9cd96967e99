"""Films that get a sound: frames untouched where an MP4 takes them, shown at the same times where it does not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.film_frames import Track
from curation.schema import RowError
from curation.silent_film import _for_clip, _for_sync, film_alone, small_frames
from curation.video_files import probe_video, read_video
from lumina.audio_tracks import AudioTrack, add_track
from lumina.video_to_audio.frames import clip_frames, grid_indices, sync_frames
from lumina.video_to_audio.lengths import lengths
from tests.curation.audible import Heard, clicks
from tests.curation.audible import write as write_heard
from tests.curation.numbered import Film, number_of, picture, write

VFR = tuple([Fraction(index, 30) for index in range(24)] + [Fraction(8 + index, 10) for index in range(12)])
GIF = Film(
    "gif", pix_fmt="rgb8", rate=Fraction(10), stamps=[Fraction(index, 10) for index in range(12)], size=(127, 95)
)
SMALL = replace(Film(b_frames=2), stamps=Film().stamps[:24])


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    found = Decoder(DecodeLimits())
    yield found
    found.close()


def track_of(path: Path) -> str:
    found = probe_video(path).track
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("b_frames.mp4", SMALL),
        ("b_frames.ts", replace(SMALL, container="mpegts")),
        ("variable.mp4", replace(SMALL, stamps=VFR, time_base=Fraction(1, 90000))),
        ("late.mkv", replace(SMALL, stamps=[3 + stamp for stamp in SMALL.stamps])),
        ("turned.mp4", replace(SMALL, matrix=(0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))),
        ("mirrored.mkv", replace(SMALL, aspect=Fraction(4, 3))),
        ("fragments.mp4", replace(SMALL, muxer={"movflags": "frag_keyframe+empty_moov"})),
        ("vp9.webm", replace(SMALL, codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"})),
    ],
)
def test_packets_are_copied_with_their_times_and_the_way_they_are_shown(
    decoder: Decoder, tmp_path: Path, name: str, film: Film
) -> None:
    write(tmp_path / name, film)
    before = probe_video(tmp_path / name)
    found = film_alone(decoder, tmp_path / name, track_of(tmp_path / name))
    assert found.copied
    (tmp_path / "copy.mp4").write_bytes(found.mp4)
    add_track(found.mp4, tmp_path / "out.mp4", AudioTrack(np.full(16_000, 0.25, np.float32)))
    for copy in ("copy.mp4", "out.mp4"):
        after = probe_video(tmp_path / copy)
        for what in ("width", "height", "codec", "frames_decodable", "rotation", "mirrored", "pixel_aspect"):
            assert getattr(after, what) == getattr(before, what), what
        assert after.duration_s == pytest.approx(before.duration_s, abs=1e-3)
    with av.open(str(tmp_path / name)) as one, av.open(str(tmp_path / "out.mp4")) as two:
        assert len(two.streams.audio) == 1
        first = None
        for was, now in zip(one.decode(video=0), two.decode(video=0), strict=True):
            first = was.time if first is None else first
            assert now.time == pytest.approx(was.time - first, abs=1e-4)
            assert np.array_equal(was.to_ndarray(), now.to_ndarray())
    reader = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) == len(film.stamps)


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("old.webm", replace(SMALL, codec="libvpx", b_frames=0)),
        ("stamps.avi", replace(SMALL, codec="mpeg4")),
        ("odd.gif", GIF),
    ],
)
def test_what_an_mp4_does_not_take_is_encoded_anew_frame_by_frame(
    decoder: Decoder, tmp_path: Path, name: str, film: Film
) -> None:
    write(tmp_path / name, film)
    before, found = probe_video(tmp_path / name), film_alone(decoder, tmp_path / name, track_of(tmp_path / name))
    assert not found.copied
    (tmp_path / "copy.mp4").write_bytes(found.mp4)
    after = probe_video(tmp_path / "copy.mp4")
    assert (after.codec, after.frames_decodable) == ("h264", before.frames_decodable)
    assert (after.width, after.height) == (before.width + before.width % 2, before.height + before.height % 2)
    assert after.duration_s == pytest.approx(before.duration_s, abs=2e-3)
    assert before.fps is not None
    times = [(index + 0.25) / before.fps for index in range(before.frames_decodable)]
    shown = [
        [number_of(image) for image in read_video(path, Track.parse(track_of(path)), times).pixels]
        for path in (tmp_path / name, tmp_path / "copy.mp4")
    ]
    assert shown[0] == shown[1] == list(range(len(times)))
    assert film_alone(decoder, tmp_path / name, track_of(tmp_path / name)) == found


def test_frames_are_those_of_the_grid_made_small(decoder: Decoder, tmp_path: Path) -> None:
    write(tmp_path / "film.mkv", replace(SMALL, stamps=VFR, time_base=Fraction(1, 1000), size=(96, 96)))
    duration_s = probe_video(tmp_path / "film.mkv").duration_s
    needed = lengths(duration_s)
    seen, moving = small_frames(decoder, tmp_path / "film.mkv", track_of(tmp_path / "film.mkv"), needed, (56, 112))
    assert (seen.shape, moving.shape) == (
        (needed.visual_frames, 56, 56, 3), (needed.sync_frames, 112, 112, 3)
    )  # fmt: skip
    frames = [picture(number, 96, 96) for number in range(len(VFR))]
    stamps = [round(float(stamp), 3) for stamp in VFR]
    for found, fps in ((seen, 8), (moving, 25)):
        assert [number_of(image) for image in found] == [
            number_of(frames[index]) for index in grid_indices(stamps, fps, len(found))
        ]


def test_frames_made_small_are_what_the_networks_see() -> None:
    frame = np.random.Generator(np.random.Philox(1)).integers(0, 256, (90, 150, 3), np.uint8)
    assert torch.equal(sync_frames(_for_sync(frame, 56)[None], 56), sync_frames(frame[None], 56))
    assert torch.equal(clip_frames(_for_clip(frame, 48)[None], 48), clip_frames(frame[None], 48))


def test_a_broken_file_is_told_of(decoder: Decoder, tmp_path: Path) -> None:
    write(tmp_path / "film.mp4", SMALL)
    track = track_of(tmp_path / "film.mp4")
    content = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(content[: len(content) // 4])
    with pytest.raises(RowError, match="pyav"):
        film_alone(decoder, tmp_path / "film.mp4", track)
    with pytest.raises(RowError, match="pyav"):
        small_frames(decoder, tmp_path / "film.mp4", track, lengths(1.0), (56, 112))


def test_the_sound_that_was_there_is_left_out_and_the_new_one_begins_with_the_film(
    decoder: Decoder, tmp_path: Path
) -> None:
    heard = write_heard(tmp_path / "film.mkv", Heard(clicks(48000, 2.0), codec="flac", video_start_s=Fraction(1, 2)))
    found = film_alone(decoder, heard, track_of(heard))
    with av.open(io.BytesIO(found.mp4)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
