from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from curation import backends
from curation.backends import decode_frames, probe
from curation.schema import Reason, RowError
from lumina.video import write_h264


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.stack([np.full((32, 48, 3), 20 * t, np.uint8) for t in range(12)])
    write_h264(tmp_path / "clip.mp4", frames, fps=8, crf=5)
    return tmp_path / "clip.mp4"


def test_both_backends_agree(clip: Path) -> None:
    found = [probe(clip, "video", name) for name in ("decord", "pyav")]
    assert found[1].decoder.startswith("pyav/")
    for result in found:
        assert (result.width, result.height, result.fps, result.frames_decodable) == (48, 32, 8.0, 12)
        assert (result.duration_s, result.codec, result.pix_fmt, result.rotation) == (1.5, "h264", "yuv420p", 0)
        frames = decode_frames(clip, "video", result.decoder, [7, 0, 7])
        assert frames.shape == (3, 32, 48, 3)
        assert np.abs(frames.mean(axis=(1, 2, 3)) - [140, 0, 140]).max() < 3


def test_what_is_no_video_is_named(clip: Path, tmp_path: Path) -> None:
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"not a video " * 99,
        "cut.mp4": clip.read_bytes()[:400],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RowError) as caught:
            probe(tmp_path / name, "video")
        assert caught.value.reason == Reason.DECODE_ERROR
        assert str(tmp_path) not in caught.value.detail
    with pytest.raises(RowError, match="pillow"):
        probe(tmp_path / "text.mp4", "image")
    with pytest.raises(RowError, match="frame"):
        decode_frames(clip, "video", "pyav/1", [99])


def test_pyav_takes_over_what_decord_cannot_read(real_clips: Path) -> None:
    found = probe(real_clips / "av1.mkv", "video")
    assert (found.decoder.partition("/")[0], found.frames_decodable, found.codec) == ("pyav", 125, "av1")
    with pytest.raises(RowError, match="pyav"):
        probe(real_clips / "corrupted.mp4", "video")


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_the_rotated_clip_is_upright_in_both(real_clips: Path, decoder: str) -> None:
    found = probe(real_clips / "rotated_90.mov", "video", decoder)
    assert (found.width, found.height, found.rotation, found.frames_decodable) == (320, 568, 90, 3)
    frames = decode_frames(real_clips / "rotated_90.mov", "video", found.decoder, [0, 2])
    assert frames.shape == (2, 568, 320, 3)
    other = decode_frames(real_clips / "rotated_90.mov", "video", "pyav/x", [0, 2])
    assert np.abs(frames.astype(int) - other).mean() < 2


@pytest.mark.parametrize(
    ("name", "frames"),
    [("non_zero_start.mp4", 12), ("hiker_tiny.mp4", 49), ("odd_size_vp9.mp4", 25), ("fps2_7frames.mp4", 7)],
)
def test_both_backends_pick_the_same_frames(real_clips: Path, name: str, frames: int) -> None:
    found = probe(real_clips / name, "video")
    assert (found.decoder.partition("/")[0], found.frames_decodable) == ("decord", frames)
    picked = [frames - 1, 0, frames // 2]
    ours, other = (decode_frames(real_clips / name, "video", one, picked) for one in (found.decoder, "pyav/x"))
    assert np.abs(ours.astype(int) - other).mean() < 3
    assert np.abs(ours[0].astype(int) - ours[1]).mean() > 3 * np.abs(ours.astype(int) - other).mean()


def test_pyav_takes_over_where_decord_sees_another_video(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_count_packets", lambda _path: 11)
    assert probe(clip, "video").decoder.startswith("pyav/")


def test_of_several_video_streams_one_backend_reads_the_first(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=8) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width = stream.height = side
        for stream in streams:
            for _ in range(5):
                image = np.zeros((stream.height, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    found = probe(tmp_path / "two.mkv", "video")
    assert (found.decoder.partition("/")[0], found.width) == ("pyav", 32)
