from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_scene
from lumina.video import read_frames, write_h264


def _frames(count: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    images = [np.stack([rows * 4, columns * 3, 0 * rows + 20 * t], axis=-1) for t in range(count)]
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


def test_a_file_is_the_same_bytes_every_time_and_reads_back(tmp_path: Path) -> None:
    frames = _frames()
    for name in ("a.mp4", "b.mp4"):
        write_h264(tmp_path / name, frames, fps=8, crf=12)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    read = read_frames(tmp_path / "a.mp4")
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 3
    assert np.array_equal(read_frames(tmp_path / "a.mp4", [7, 0, 7]), read[[7, 0, 7]])


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "concat:a.mp4", "file:a.mp4"):
        write_h264(name, _frames(), fps=8)
        assert read_frames(name).shape == (9, 48, 64, 3)
        assert (tmp_path / name).is_file()


def test_quality_is_configurable(tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    sizes = []
    for crf in (10, 40):
        write_h264(tmp_path / f"{crf}.mp4", noise, fps=29.97, crf=crf)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 720)])
def test_colours_are_bt709_and_say_so(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "x.mp4"
    # Y, Cb and Cr by the formulas of BT.709 with limited range.
    for rgb, yuv in {(255, 0, 0): (63, 102, 240), (0, 255, 0): (173, 42, 26), (0, 0, 255): (32, 240, 118)}.items():
        write_h264(path, np.full((2, height, width, 3), rgb, np.uint8), fps=8)
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            assert (codec.colorspace, codec.color_range, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
            planes = next(container.decode(video=0)).to_ndarray(format="yuv420p").reshape(-1)
        luma, chroma = planes[: height * width], planes[height * width :].reshape(2, -1)
        for plane, value in zip((luma, *chroma), yuv, strict=True):
            assert np.abs(plane.astype(int) - value).max() <= 1
        assert np.abs(read_frames(path).astype(int) - rgb).max() <= 3
    # ISO 14496-12: "nclx", then primaries, transfer, matrix (two bytes each) and a bit for full range.
    assert b"colrnclx" + bytes([0, 1, 0, 1, 0, 1, 0]) in path.read_bytes()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides, got 63x48"):
        write_h264(tmp_path / "x.mp4", _frames(width=63), fps=8)
    with pytest.raises(ValueError, match="uint8"):
        write_h264(tmp_path / "x.mp4", _frames().astype(np.float32), fps=8)
    write_h264(tmp_path / "x.mp4", _frames(3), fps=8)
    with pytest.raises(ValueError, match="has 3 frames, asked for frame 3"):
        read_frames(tmp_path / "x.mp4", [3])


def test_noisy_clips_give_the_same_bytes_every_time(tmp_path: Path) -> None:
    rng = generator(0, "test/video/noise")
    scene = sample_scene(rng)
    frames = film(scene, SOURCES["handheld"], rng, num_frames=35, height=96, width=96, fps=16)
    written = set()
    for _ in range(12):
        write_h264(tmp_path / "clip.mp4", frames, 16, crf=23)
        written.add((tmp_path / "clip.mp4").read_bytes())
    assert len(written) == 1
