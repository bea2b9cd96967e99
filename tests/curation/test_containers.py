"""Texts that name other files are no videos, whatever they are called, and frames have a largest size."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from curation import containers
from curation.containers import find_film, opened
from curation.schema import Reason, RowError
from curation.video_files import probe_video
from tests.curation.numbered import Film, write

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfilm.ts\n#EXT-X-ENDLIST\n"
LISTS = {
    "hls": (HLS, "a playlist (HLS)"),
    "hls behind a mark": ("\ufeff\n" + HLS, "a playlist (HLS)"),
    "hls on a server": (HLS.replace("film.ts", "http://127.0.0.1:9/film.ts"), "a playlist (HLS)"),
    "concat": ("ffconcat version 1.0\nfile film.ts\n", "a list of files to join (ffconcat)"),
    "dash": (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "a playlist (DASH)",
    ),
    "sdp": ("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "a description of"),
    "vobsub": ("# VobSub index file, v7 (do not modify this line!)\n", "an index of subtitles (VobSub)"),
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".ts", ".mpd", ".sdp", ""])
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_other_files_is_no_video(tmp_path: Path, kind: str, suffix: str) -> None:
    write(tmp_path / "film.ts", Film())
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[kind][0])
    with pytest.raises(RowError) as refused:
        probe_video(path)
    assert refused.value.reason == Reason.DECODE_ERROR
    assert refused.value.detail.startswith(LISTS[kind][1])
    assert refused.value.detail.endswith("names other files, and is no video itself: list those instead")


def test_a_name_is_no_pattern_and_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("frame%03d.png", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:a.mp4", "data:text", "testsrc"):
        Path(name).write_bytes(b"no video")
        with pytest.raises(RowError) as refused:
            probe_video(Path(name))
        assert refused.value.reason == Reason.DECODE_ERROR
    write(tmp_path / "pipe:0.mp4", Film())
    assert probe_video(Path("pipe:0.mp4")).frames_decodable == 48


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "A film of words.\n" * 200),
        ("x.srt", "1\n00:00:01,000 --> 00:00:02,000\nA\n"),
        ("art.ans", "\x1b[31mred\n" * 99),
    ],
)
def test_a_text_is_no_video(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RowError) as refused:
        probe_video(tmp_path / name)
    assert refused.value.reason in (Reason.DECODE_ERROR, Reason.NO_VIDEO_STREAM)


def test_a_track_that_lies_in_another_file_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "film.mov", Film(container="mov"))
    content = (tmp_path / "film.mov").read_bytes()
    at = content.index(b"dref") - 4
    size = int.from_bytes(content[at : at + 4], "big")
    name = b"secret.raw\0"
    entry = struct.pack(">I4sI", 12 + len(name), b"url ", 0) + name
    other = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = len(other) - size
    assert grown >= 0
    made = bytearray(content[:at] + other + content[at + size :])
    for atom in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = made.index(atom) - 4
        made[place : place + 4] = struct.pack(">I", int.from_bytes(made[place : place + 4], "big") + grown)
    (tmp_path / "linked.mov").write_bytes(made)
    (tmp_path / "secret.raw").write_bytes(content)
    with opened(tmp_path / "linked.mov") as container:
        packets = [packet.size for packet in container.demux(video=0)]
    (tmp_path / "secret.raw").unlink()
    with opened(tmp_path / "linked.mov") as container:
        assert packets == [packet.size for packet in container.demux(video=0)]


def test_a_frame_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for codec, container in (("mpeg4", "mp4"), ("libx264", "h264"), ("ffv1", "matroska")):
        path = tmp_path / f"film.{container}"
        write(path, Film(codec=codec, container=container))
        monkeypatch.setattr(containers, "MOST_PIXELS", 128 * 96)
        assert find_film(path).codec
        monkeypatch.setattr(containers, "MOST_PIXELS", 128 * 96 - 1)
        with pytest.raises(RowError, match=r"frames of 128x96 pixels: at most 12,287 are decoded") as refused:
            find_film(path)
        assert refused.value.reason == Reason.DECODE_MEMORY
