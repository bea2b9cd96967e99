from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from curation.film_frames import Track
from curation.schema import Reason, RowError, Status
from curation.video_files import Frames, probe_video, read_video
from lumina.motion import RELEASED_TIMES_S, DISFlow, motion_score
from lumina.randomness import generator
from lumina.video import write_h264
from tests.curation.numbered import Film, corners, number_of, picture, write

VFR = tuple([Fraction(index, 30) for index in range(30)] + [1 + Fraction(index, 2) for index in range(10)])


def read(path: Path, times_s: Sequence[float]) -> Frames:
    found = probe_video(path)
    assert found.track is not None
    frames = read_video(path, Track.parse(found.track), times_s)
    assert frames.pixels.shape[1:] == (found.height, found.width, 3)
    return frames


def numbers(path: Path, times_s: Sequence[float]) -> list[int]:
    return [number_of(image) for image in read(path, times_s).pixels]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.stack([np.full((32, 48, 3), 20 * t, np.uint8) for t in range(12)])
    write_h264(tmp_path / "clip.mp4", frames, fps=8, crf=5)
    return tmp_path / "clip.mp4"


def test_a_film_is_probed_and_read(clip: Path) -> None:
    found = probe_video(clip)
    assert (found.width, found.height, found.rotation, found.mirrored, found.pixel_aspect) == (48, 32, 0, False, 1)
    assert (found.fps, found.duration_s, found.file_duration_s, found.max_gap_s) == (8, 1.5, 1.5, 0.125)
    assert (found.frames_container, found.frames_decodable, found.frames_shown) == (12, 12, 12)
    assert (found.container, found.codec, found.pix_fmt) == ("mov", "h264", "yuv420p")
    assert (found.interlaced, found.hdr, found.color_transfer) == (0, 0, "bt709")
    assert found.decoder == f"pyav/{av.__version__}"
    frames = read(clip, [0, 0, 0.875, 1.4])
    assert frames.stamps_s == (0, 0, 0.875, 1.375)
    assert np.abs(frames.pixels.mean(axis=(1, 2, 3)) - [0, 0, 140, 220]).max() < 3


@pytest.mark.parametrize("name", ["rotated_90.mov", "sintel_10s.mp4", "hiker_tiny.mp4", "pancake.mkv"])
def test_another_decoder_sees_the_same(real_clips: Path, name: str) -> None:
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(real_clips / name), num_threads=1)
    found = probe_video(real_clips / name)
    assert found.frames_decodable == len(reader)
    picked = list(range(0, min(len(reader), 60), 7))
    frames = read(real_clips / name, [index / (found.fps or 1) for index in picked]).pixels
    # In a run, which it does well.
    theirs = np.stack([reader[index].asnumpy() for index in range(picked[-1] + 1)])[picked]
    assert np.abs(frames.astype(int) - theirs).mean() < 2


def test_what_is_no_video_is_named(clip: Path, tmp_path: Path) -> None:
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"not a video " * 99,
        "cut.mp4": clip.read_bytes()[:400],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RowError) as caught:
            probe_video(tmp_path / name)
        assert caught.value.reason == Reason.DECODE_ERROR
        assert str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize("name", ["mpeg2.mpg", "x264_gop48_b3.ts", "x265_keyint48.mp4", "x264_default.mp4"])
def test_sparse_reading_gives_the_frames_asked_for(faulty: Path, name: str) -> None:
    found = probe_video(faulty / name)
    rate = found.fps or 0
    assert (found.frames_decodable, rate) == (200, 25 if name == "mpeg2.mpg" else 24)
    for picked in (list(range(100, 149, 3)), list(range(0, 49, 3)), [199], [7, 7, 150]):
        assert numbers(faulty / name, [index / rate for index in picked]) == picked
    times = [time * 24 / rate for time in RELEASED_TIMES_S]
    with av.open(str(faulty / name)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    scores = [
        motion_score(frames, DISFlow()).flow_abs_mean
        for frames in (read(faulty / name, times).pixels, plain[[round(time * 24) for time in RELEASED_TIMES_S]])
    ]
    assert scores[0] == pytest.approx(scores[1])
    if name == "x264_default.mp4":
        assert scores[0] == pytest.approx(8.14, abs=0.01)


@pytest.mark.parametrize("name", ["three_shots.ts", "three_shots.mp4"])
def test_the_frames_of_a_shot_are_its_own(faulty: Path, name: str) -> None:
    for channel, (start, end) in enumerate([(0.0, 2.0), (2.0, 4.5), (4.5, 7.0)]):
        found = probe_video(faulty / name, start, end)
        assert (found.duration_s, found.file_duration_s) == (pytest.approx(end - start), pytest.approx(7))
        assert found.frames_shown == round((end - start) * 24)
        times = [start + step / 24 for step in range(found.frames_shown)]
        pixels = read_video(faulty / name, Track.parse(found.track or ""), times).pixels
        assert (pixels.mean(axis=(1, 2)).argmax(axis=-1) == channel).all()


def test_frames_of_variable_rate_are_those_on_the_screen(faulty: Path) -> None:
    found = probe_video(faulty / "vfr.mp4")
    assert 5.5 <= found.duration_s <= 6
    assert (found.frames_shown, found.max_gap_s) == (40, pytest.approx(0.5, abs=0.002))
    times = [step / 8 for step in range(17)]
    seen = numbers(faulty / "vfr.mp4", times)
    assert all(abs(number - 30 * time) <= 0.55 for number, time in zip(seen[:8], times, strict=False))
    assert seen[8:] == [30] * 4 + [31] * 4 + [32]


def test_a_span_of_variable_rate_stays_on_its_side(faulty: Path) -> None:
    path = faulty / "vfr_shots.mp4"
    for start, end in ((0.0, 4.0), (4.0, 6.0)):
        found = probe_video(path, start, end)
        assert found.frames_shown == (8 if start == 0 else 120)
        assert found.fps == pytest.approx(2 if start == 0 else 60, rel=0.02)
        times = [start + step / 24 for step in range(round((end - start) * 24) - 1)]
        stamps = read_video(path, Track.parse(found.track or ""), times).stamps_s
        assert all((stamp < 4) == (start == 0) for stamp in stamps)


def test_a_recording_of_a_browser_has_its_rate(faulty: Path) -> None:
    found = probe_video(faulty / "mediarecorder.webm")
    assert 29 <= (found.fps or 0) <= 31
    assert found.duration_s == pytest.approx(1.98, abs=0.05)


def test_a_raw_stream_has_the_rate_that_it_states(faulty: Path) -> None:
    found = probe_video(faulty / "raw60.h264")
    assert (found.fps, found.duration_s, found.frames_decodable) == (60, 0.8, 48)


def test_a_mirrored_film_is_shown_mirrored(faulty: Path) -> None:
    assert corners(read(faulty / "hflip.mp4", [0]).pixels[0]) == "GRYB"
    found = probe_video(faulty / "hflip.mp4")
    assert (found.rotation, found.mirrored) == (0, True)


def test_pixels_that_are_not_square_are_made_so(faulty: Path) -> None:
    found = probe_video(faulty / "sar2.mp4")
    assert (found.width, found.height, found.pixel_aspect) == (128, 96, 2)
    assert numbers(faulty / "sar2.mp4", [0, 1]) == [0, 24]


def test_a_cover_is_no_film(faulty: Path) -> None:
    with pytest.raises(RowError, match="a cover") as caught:
        probe_video(faulty / "song.mkv")
    assert caught.value.reason == Reason.NO_VIDEO_STREAM
    found = probe_video(faulty / "thumb_first.mp4")
    assert (found.width, found.height, found.fps, found.frames_decodable) == (128, 96, 24, 48)
    assert numbers(faulty / "thumb_first.mp4", [0.5, 1.5]) == [12, 36]


def test_a_change_of_size_is_named(faulty: Path) -> None:
    with pytest.raises(RowError, match="the picture changes from 128x96 to 192x144 at 1 s") as caught:
        probe_video(faulty / "res_change.h264")
    assert caught.value.reason == Reason.SIZE_CHANGES
    for start, end, width in ((0, 1, 128), (1, 2, 192)):
        assert probe_video(faulty / "res_change.h264", start, end).width == width


LONG = tuple(Fraction(index, 10) for index in range(250))
SLOW = tuple(Fraction(index * 2, 25) for index in range(250))


@pytest.mark.parametrize(
    ("suffix", "film"),
    [
        ("mp4", Film(stamps=LONG, rate=Fraction(10), b_frames=3, gop=20)),
        ("mkv", Film(stamps=LONG, rate=Fraction(10), b_frames=3, gop=30, options={"x264-params": "open-gop=1"})),
        ("mkv", Film(stamps=LONG, rate=Fraction(10), gop=30, options={"x264-params": "intra-refresh=1:keyint=30"})),
        ("ts", Film(stamps=LONG, rate=Fraction(10), b_frames=3, gop=20)),
        ("ts", Film(stamps=LONG, rate=Fraction(10), codec="libx265", gop=20, options={"preset": "ultrafast"})),
        ("mp4", Film(stamps=LONG, rate=Fraction(10), codec="libx265", gop=20, b_frames=3, options={
            "preset": "ultrafast", "x265-params": "open-gop=1:log-level=none"})),
        ("webm", Film(stamps=LONG, rate=Fraction(10), codec="libvpx-vp9", gop=20, options={
            "cpu-used": "8", "deadline": "realtime"})),
        ("mkv", Film(stamps=SLOW, rate=Fraction(25), codec="mpeg2video", b_frames=2, gop=15)),
        ("avi", Film(stamps=LONG, rate=Fraction(10), codec="mpeg4", b_frames=2, gop=20)),
    ],
)  # fmt: skip
def test_far_frames_are_those_that_are_read_from_the_start(tmp_path: Path, suffix: str, film: Film) -> None:
    write(tmp_path / f"film.{suffix}", film)
    found = probe_video(tmp_path / f"film.{suffix}")
    track = Track.parse(found.track or "")
    everything = read_video(tmp_path / f"film.{suffix}", track, [float(stamp) for stamp in film.stamps])
    assert [number_of(image) for image in everything.pixels] == list(range(250))
    for index in (105, 119, 120, 121, 150, 199, 201, 239, 249):
        far = read_video(tmp_path / f"film.{suffix}", track, [float(film.stamps[index])])
        np.testing.assert_array_equal(far.pixels[0], everything.pixels[index])
        assert far.stamps_s[0] == pytest.approx(float(film.stamps[index]), abs=0.002)
        span = probe_video(tmp_path / f"film.{suffix}", float(film.stamps[index - 5]), float(film.stamps[index]))
        assert (span.frames_shown, span.track) == (5, found.track)


@pytest.mark.parametrize(
    ("matrix", "seen", "rotation", "mirrored"),
    [
        ((1, 0, 0, 1), "RGBY", 0, False),
        ((0, 1, -1, 0), "BRYG", 90, False),
        ((-1, 0, 0, -1), "YBGR", 180, False),
        ((0, -1, 1, 0), "GYRB", 270, False),
        ((-1, 0, 0, 1), "GRYB", 0, True),
        ((1, 0, 0, -1), "BYRG", 180, True),
        ((0, 1, 1, 0), "RBGY", 270, True),
        ((0, -1, -1, 0), "YGBR", 90, True),
    ],
)
@pytest.mark.parametrize(("suffix", "codec"), [("mov", "libx264"), ("mp4", "mpeg4")])
def test_all_eight_ways_to_turn_a_film(
    tmp_path: Path, suffix: str, codec: str, matrix: tuple[int, ...], seen: str, rotation: int, mirrored: bool
) -> None:
    a, b, c, d = (value << 16 for value in matrix)
    write(tmp_path / f"film.{suffix}", Film(codec=codec, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30)))
    found = probe_video(tmp_path / f"film.{suffix}")
    assert (found.rotation, found.mirrored) == (rotation, mirrored)
    assert (found.width, found.height) == ((128, 96) if a else (96, 128))
    assert corners(read(tmp_path / f"film.{suffix}", [0.5]).pixels[0]) == seen


def test_a_film_that_is_turned_askew_is_refused(tmp_path: Path) -> None:
    half = round(0.5**0.5 * (1 << 16))
    write(tmp_path / "film.mp4", Film(matrix=(half, half, 0, -half, half, 0, 0, 0, 1 << 30)))
    with pytest.raises(RowError, match="turned by 45 degrees"):
        probe_video(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("suffix", "codec", "size", "aspect", "shown"),
    [
        ("mkv", "libx264", (96, 96), Fraction(4, 3), (128, 96)),
        ("mpg", "mpeg2video", (120, 96), Fraction(16, 15), (128, 96)),
        ("mp4", "mpeg4", (160, 96), Fraction(8, 10), (128, 96)),
        ("ts", "libx265", (64, 96), Fraction(2), (128, 96)),
        ("mp4", "libx264", (128, 96), Fraction(224, 225), (128, 96)),
    ],
)
def test_pixels_of_every_shape(
    tmp_path: Path, suffix: str, codec: str, size: tuple[int, int], aspect: Fraction, shown: tuple[int, int]
) -> None:
    stamps = tuple(Fraction(index, 25) for index in range(25))
    film = Film(codec=codec, size=size, aspect=aspect, rate=Fraction(25), stamps=stamps)
    write(tmp_path / f"film.{suffix}", film)
    found = probe_video(tmp_path / f"film.{suffix}")
    assert (found.width, found.height) == shown
    assert corners(read(tmp_path / f"film.{suffix}", [0]).pixels[0]) == "RGBY"


def test_an_aspect_and_a_turn_together(tmp_path: Path) -> None:
    matrix = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    write(tmp_path / "film.mp4", Film(size=(64, 96), aspect=Fraction(2), matrix=matrix))
    found = probe_video(tmp_path / "film.mp4")
    assert (found.width, found.height, found.rotation) == (96, 128, 90)
    assert corners(read(tmp_path / "film.mp4", [0]).pixels[0]) == "BRYG"


@pytest.mark.parametrize(
    ("suffix", "base", "codec"),
    [("mkv", 1000, "libx264"), ("ts", 90000, "libx264"), ("webm", 1000, "libvpx"), ("flv", 1000, "flv"),
     ("nut", 9000, "ffv1"), ("gif", 100, "gif")],
)  # fmt: skip
def test_times_of_variable_rate_in_other_containers(tmp_path: Path, suffix: str, base: int, codec: str) -> None:
    stamps = VFR[::3]
    film = Film(
        codec=codec, stamps=stamps, rate=Fraction(10), time_base=Fraction(1, base),
        pix_fmt="rgb8" if codec == "gif" else "yuv420p",
    )  # fmt: skip
    write(tmp_path / f"film.{suffix}", film)
    found = probe_video(tmp_path / f"film.{suffix}")
    assert found.frames_shown == len(stamps)
    assert found.max_gap_s == pytest.approx(max(later - sooner for sooner, later in pairwise(stamps)), abs=0.011)
    times = [float(stamp) + 0.01 for stamp in stamps]
    frames = read(tmp_path / f"film.{suffix}", times)
    assert [number_of(image) for image in frames.pixels] == list(range(len(stamps)))
    assert frames.stamps_s == pytest.approx([float(stamp) for stamp in stamps], abs=0.011)


def test_files_behind_one_another_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "one.ts", Film(stamps=LONG[:40], rate=Fraction(10), b_frames=2))
    (tmp_path / "two.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    with pytest.raises(RowError, match="the time stamps jump back"):
        probe_video(tmp_path / "two.ts")


def test_a_film_that_breaks_off_ends_where_it_can_be_decoded(tmp_path: Path) -> None:
    write(
        tmp_path / "film.mkv", Film(codec="mpeg2video", rate=Fraction(25), stamps=LONG[:100], time_base=Fraction(1, 25))
    )
    content = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 3 // 5])
    whole, cut = (probe_video(tmp_path / name) for name in ("film.mkv", "cut.mkv"))
    assert 20 < cut.frames_decodable < whole.frames_decodable == 100
    last = cut.frames_decodable - 1
    assert numbers(tmp_path / "cut.mkv", [cut.duration_s - 0.1]) in ([last], [last - 1])


def _noise(number: int, width: int, height: int) -> np.ndarray:
    return generator(number, "test/noise").integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mkv", "mpeg2video"), ("ts", "libx264")])
def test_damage_in_the_middle_is_named(tmp_path: Path, suffix: str, codec: str) -> None:
    stamps = tuple(Fraction(index, 25) for index in range(50))
    write(tmp_path / f"film.{suffix}", Film(codec=codec, stamps=stamps, rate=Fraction(25), picture=_noise, gop=10))
    content = bytearray((tmp_path / f"film.{suffix}").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    (tmp_path / f"film.{suffix}").write_bytes(content)
    with pytest.raises(RowError, match="damaged between two frames") as caught:
        probe_video(tmp_path / f"film.{suffix}")
    assert caught.value.reason == Reason.DECODE_ERROR


def test_a_span_outside_of_the_film_is_named(clip: Path) -> None:
    with pytest.raises(RowError, match=r"the span begins at 1.5 s, and the film ends at 1.5 s") as caught:
        probe_video(clip, 1.5, 2.0)
    assert (caught.value.reason, caught.value.status) == (Reason.TOO_FEW_FRAMES, Status.FILTERED)
    assert probe_video(clip, 1.0, 9.0).duration_s == 0.5


def _combs(number: int, width: int, height: int) -> np.ndarray:
    """A field of a bar that moves, above one of the bar a field later."""
    image = np.full((height, width, 3), 40, np.uint8)
    for field in (0, 1):
        left = (8 * number + 4 * field) % (width - 24)
        image[field::2, left : left + 24] = 220
    return image


def _combing(image: np.ndarray) -> float:
    grey = image.mean(axis=-1)
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mpg", "mpeg2video", {"flags": "+ildct+ilme"}),
        ("mp4", "libx264", {"x264-params": "tff=1"}),
        ("mkv", "mpeg4", {"flags": "+ildct+ilme"}),
    ],
)
def test_interlaced_films_are_told_and_deinterlaced(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str]
) -> None:
    shape: dict[str, Any] = {"codec": codec, "rate": Fraction(25), "time_base": Fraction(1, 25), "picture": _combs}
    stamps = tuple(Fraction(index, 25) for index in range(20))
    write(tmp_path / f"film.{suffix}", Film(**shape, stamps=stamps, options=options))
    write(tmp_path / f"plain.{suffix}", Film(**shape, stamps=stamps))
    found, plain = probe_video(tmp_path / f"film.{suffix}"), probe_video(tmp_path / f"plain.{suffix}")
    assert (found.interlaced, plain.interlaced) == (1, 0)
    times = [5 / 25, 10 / 25, 19 / 25]
    mended = read_video(tmp_path / f"film.{suffix}", Track.parse(found.track or ""), times)
    combed = read_video(tmp_path / f"plain.{suffix}", Track.parse(plain.track or ""), times)
    assert mended.stamps_s == pytest.approx(times, abs=0.002)
    assert len(mended.pixels) == 3
    for one, other in zip(mended.pixels, combed.pixels, strict=True):
        assert _combing(one) < 0.35 * _combing(other)


def test_hdr_is_told_and_shown_for_sdr(tmp_path: Path) -> None:
    """A grey of 203 nits, the white of SDR in HDR: PQ has 58 % of its signal there, 75 % in HLG."""
    for transfer, code, name in ((16, 0.5807, "smpte2084"), (18, 0.75, "arib-std-b67")):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace, context.color_range = transfer, 9, 9, 1
            for _ in range(5):
                planes = np.full((72, 64), 512, np.uint16)
                planes[:48] = round(64 + 876 * code)
                frame = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
                frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = transfer, 9, 9, 1
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        found = probe_video(tmp_path / f"{name}.mkv")
        assert (found.hdr, found.color_transfer) == (1, name)
        shown = read(tmp_path / f"{name}.mkv", [0.2]).pixels
        assert 150 < shown.mean() < 255
        assert shown.std() < 1


def test_colours_are_those_of_the_matrix(tmp_path: Path) -> None:
    """Pure red of BT.709 in limited range is Y 63, Cb 102, Cr 240; of BT.601 it is 81, 90, 240."""
    for matrix, (luma, blue, red) in ((1, (63, 102, 240)), (5, (81, 90, 240))):
        with av.open(str(tmp_path / "red.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1
            planes = np.concatenate([
                np.full(64 * 48, luma), np.full(32 * 24, blue), np.full(32 * 24, red)
            ]).astype(np.uint8).reshape(72, 64)  # fmt: skip
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.colorspace, frame.color_range = matrix, 1
            container.mux([*stream.encode(frame), *stream.encode(None)])
        assert np.abs(read(tmp_path / "red.mkv", [0]).pixels[0].astype(int) - [255, 0, 0]).max() <= 3


def test_a_name_is_no_protocol(clip: Path) -> None:
    for name in ("12:30.mp4", "concat:a.mp4", "50%d.mp4", "a?b#c.mp4", "[x].mp4"):
        clip.rename(clip.with_name(name))
        assert probe_video(clip.with_name(name)).frames_decodable == 12
        clip.with_name(name).rename(clip)


def test_rgb_of_a_picture_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "film.mkv", Film(codec="ffv1", pix_fmt="bgr0", stamps=LONG[:3]))
    np.testing.assert_array_equal(read(tmp_path / "film.mkv", [0.1]).pixels[0], picture(1))


def test_a_stretched_picture_is_that_of_another_library(tmp_path: Path) -> None:
    lossless = Film(pix_fmt="yuv444p", size=(96, 96), aspect=Fraction(4, 3), options={"crf": "0"})
    write(tmp_path / "film.mkv", lossless)
    stretched = cv2.resize(picture(0, 96, 96), (128, 96), interpolation=cv2.INTER_LINEAR)
    assert np.abs(read(tmp_path / "film.mkv", [0]).pixels[0].astype(int) - stretched).mean() < 3


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"), [("mkv", "ffv1", "bgra"), ("mov", "prores_ks", "yuva444p10le")]
)
def test_what_is_transparent_is_white(tmp_path: Path, suffix: str, codec: str, pix_fmt: str) -> None:
    noise = generator(4, "test/alpha").integers(0, 255, (48, 64, 4), np.uint8)
    noise[..., 3] = 0
    noise[16:32, 16:32] = [255, 0, 0, 255]
    with av.open(str(tmp_path / f"film.{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgba")))
        container.mux(stream.encode())
    shown = read(tmp_path / f"film.{suffix}", [0]).pixels[0].astype(int)
    assert np.abs(shown[20:28, 20:28] - [255, 0, 0]).max() < 12
    assert shown[:12].min() > 250
