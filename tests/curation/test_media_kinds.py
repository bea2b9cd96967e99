from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.backends import probe, read
from curation.media_kinds import HEAD_BYTES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, format_of, guess_media, media_of
from curation.schema import Reason, RowError
from tests.conftest import SHARED

STILLS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "DDS")
SHADES = (20, 60, 100, 140, 180)
MUXERS = ("mp4", "mov", "matroska", "avi", "mpegts", "flv", "asf", "ogg", "mpeg", "3gp", "nut", "ivf", "mxf")


def _moving(path: Path, kind: str) -> None:
    first, *rest = (Image.new("RGB", (64, 48), (shade,) * 3) for shade in SHADES)
    first.save(path, kind, save_all=True, append_images=rest, duration=[100, 100, 400, 100, 100])


@pytest.mark.parametrize("kind", STILLS)
@pytest.mark.parametrize("name", ["x", "x.mp4", "x.bin", "x.png"])
def test_a_still_is_an_image_whatever_its_name(kind: str, name: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / name, kind)
    assert media_of((tmp_path / name).read_bytes(), name) == "image"


@pytest.mark.parametrize("muxer", MUXERS)
def test_a_film_is_a_video_whatever_its_name(muxer: str, tmp_path: Path) -> None:
    codec = {"flv": "flv1", "ogg": "libvpx", "ivf": "libvpx", "mpeg": "mpeg2video", "mxf": "mpeg2video"}
    with av.open(str(tmp_path / "x.jpg"), "w", format=muxer) as container:
        try:
            stream = container.add_stream(codec.get(muxer, "mpeg4"), rate=25)
        except (ValueError, av.FFmpegError) as error:
            pytest.skip(f"no such encoder here: {error}")
        stream.width, stream.height = 64, 48
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    for name in ("x.jpg", "x.png", "x"):
        assert media_of((tmp_path / "x.jpg").read_bytes(), name) == "video"


@pytest.mark.parametrize(("kind", "name"), [("PNG", "x.png"), ("PNG", "x.apng"), ("PNG", "x.jpg"), ("GIF", "x.gif")])
def test_a_picture_that_moves_is_a_video_of_its_frames(kind: str, name: str, tmp_path: Path) -> None:
    _moving(tmp_path / name, kind)
    assert media_of((tmp_path / name).read_bytes(), name) == "video"
    found = probe(tmp_path / name, "video")
    assert (found.width, found.height, found.frames_decodable) == (64, 48, 5)
    assert found.duration_s == pytest.approx(0.8)
    frames = read(tmp_path / name, "video", found.track, [0, 0.22, 0.5, 0.62, 0.7]).pixels
    assert np.abs(frames.mean(axis=(1, 2, 3)) - [20, 100, 100, 140, 180]).max() <= 2


def test_what_moves_and_no_decoder_reads_is_refused_by_name(tmp_path: Path) -> None:
    _moving(tmp_path / "x.webp", "WEBP")
    media = media_of((tmp_path / "x.webp").read_bytes(), "x.webp")
    with pytest.raises(RowError, match="an animation of 5 frames") as caught:
        probe(tmp_path / "x.webp", media)
    assert caught.value.reason == Reason.DECODE_ERROR
    _moving(tmp_path / "x.avif", "AVIF")
    assert media_of((tmp_path / "x.avif").read_bytes(), "x.avif") == "video"
    assert probe(tmp_path / "x.avif", "video").frames_decodable == 5


def test_what_moves_once_is_a_still(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", save_all=True)
    assert media_of((tmp_path / "x.png").read_bytes(), "x.apng") == "image"
    Image.new("P", (16, 16)).save(tmp_path / "x.gif", save_all=True, loop=0)
    assert media_of((tmp_path / "x.gif").read_bytes(), "x.gif") == "image"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw photo (CR3)"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc", None),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypmjp2", None),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
    ],
)
def test_what_no_library_here_writes_is_known_by_its_first_bytes(head: bytes, name: str | None) -> None:
    assert format_of(head) == name
    assert media_of(head, "x") == ("video" if name is None else "image")


def test_where_the_content_tells_nothing_the_extension_does() -> None:
    for suffixes, media in ((IMAGE_SUFFIXES, "image"), (VIDEO_SUFFIXES, "video"), ((".bin", ""), "video")):
        for suffix in suffixes:
            assert guess_media(f"a{suffix.upper()}") == media_of(b"no media", f"a{suffix}") == media
    assert not IMAGE_SUFFIXES & VIDEO_SUFFIXES
    assert media_of(b"\xff\xd8\xff", "a.mjpg") == "video"
    with pytest.raises(RowError, match=r"a.jpg: the file is empty \(0 bytes\)"):
        media_of(b"", "a.jpg")


@given(
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"\0\0\0\x18ftyp", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"BM"]
    ),
    st.binary(min_size=1, max_size=200),
)
def test_any_bytes_are_one_or_the_other(start: bytes, rest: bytes) -> None:
    assert media_of(start + rest, "x") in ("image", "video")


@pytest.mark.skipif(not (SHARED / "inputs").is_dir(), reason="no inputs in shared")
def test_inputs_that_showed_faults() -> None:
    for path in (SHARED / "inputs").iterdir():
        if path.is_file() and path.suffix != ".md" and path.suffix != ".csv":
            image = path.suffix in (".png", ".jfif")
            assert media_of(path.read_bytes()[:HEAD_BYTES], path.name) == ("image" if image else "video"), path.name
