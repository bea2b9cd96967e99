from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from curation.key_frames import is_clean
from tests.curation.numbered import Film, write

STAMPS = tuple(Fraction(index, 24) for index in range(60))


def marked(path: Path) -> list[bool]:
    """Of each packet that the container marks as a key frame, whether it is one to begin at."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec, extra = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
        return [is_clean(codec, extra, bytes(packet)) for packet in container.demux(stream) if packet.is_keyframe]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("film", "clean"),
    [
        (Film(stamps=STAMPS, gop=12), [True] * 5),
        (Film(stamps=STAMPS, gop=12, b_frames=2, options={"x264-params": "open-gop=1:scenecut=0"}), [True, False]),
        (Film(stamps=STAMPS, gop=12, options={"x264-params": "intra-refresh=1"}), [True, False]),
        (Film(stamps=STAMPS, gop=12, codec="libx265", options={"preset": "ultrafast"}), [True] * 5),
        (Film(stamps=STAMPS, gop=12, codec="mpeg4"), [True] * 5),
    ],
)
def test_only_whole_beginnings_are_clean(tmp_path: Path, suffix: str, film: Film, clean: list[bool]) -> None:
    write(tmp_path / f"film.{suffix}", film)
    found = marked(tmp_path / f"film.{suffix}")
    assert found[0]
    # mp4 does not mark what mends by and by.
    assert set(found) <= set(clean)


def test_what_is_unknown_or_cut_is_not_clean() -> None:
    assert not is_clean("rv40", b"", b"\0\0\1\x65")
    assert is_clean("h264", b"", b"\0\0\0\1\x67\0\0\1\x65\0")
    assert not is_clean("h264", b"", b"\0\0\0\1\x67\0\0\1\x41\0")
    assert is_clean("h264", b"\1\0\0\0\3", b"\0\0\0\1\x06\0\0\0\1\x65")
    for packet in (b"", b"\0", b"\0\0\1", b"\0\0\0\5"):
        for extra in (b"", b"\1\0\0\0\3", b"\1"):
            assert not is_clean("h264", extra, packet)
            assert not is_clean("hevc", extra, packet)
