from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.manifests import clip_id
from curation.operator import Env, Input
from curation.schema import INGEST, Reason, RowError, status_ok, to_table
from curation.shots import SPLIT_OPERATOR, ShotsConfig, find_shots, spans
from lumina.video import write_h264
from tests.curation.in_memory import computed
from tests.curation.numbered import Film, write

DETECTORS = ("content", "adaptive")


def _texture(seed: int, frames: int) -> np.ndarray:
    """A picture that drifts by a pixel a frame."""
    rng = np.random.Generator(np.random.Philox(seed))
    coarse = rng.integers(40, 255, (6, 8, 3), dtype=np.uint8)
    picture = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    return np.stack([np.roll(picture, t, axis=1) for t in range(frames)])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_h264(folder / "cuts.mp4", np.concatenate([_texture(seed, 20) for seed in (1, 2, 3)]), fps=10)
    write_h264(folder / "one.mp4", _texture(1, 30), fps=10)
    levels = np.concatenate([np.linspace(1, 0, 20), np.linspace(0, 1, 20)])[:, None, None, None]
    faded = np.concatenate([_texture(seed, 20).mean(axis=-1, keepdims=True) for seed in (1, 2)]) * levels
    write_h264(folder / "fade.mp4", np.repeat(faded, 3, axis=-1).astype(np.uint8), fps=10)
    write_h264(folder / "frame.mp4", _texture(1, 1), fps=10)
    Image.fromarray(_texture(1, 1)[0]).save(folder / "still.png")
    return folder


@pytest.mark.parametrize("detector", DETECTORS)
def test_hard_cuts_and_fades_are_found(clips: Path, detector: Any) -> None:
    config = ShotsConfig(detector=detector)
    assert find_shots(clips / "cuts.mp4", config) == [(0, 2), (2, 4), (4, 6)]
    assert find_shots(clips / "one.mp4", config) == [(0, 3)]
    assert find_shots(clips / "frame.mp4", config) == [(0, 0.1)]
    first, second = find_shots(clips / "fade.mp4", config)
    assert first == (0, pytest.approx(2, abs=0.15))
    assert second == (first[1], 4)
    assert find_shots(clips / "fade.mp4", ShotsConfig(detector=detector, black_level=None)) == [(0, 4)]
    assert find_shots(clips / "cuts.mp4", ShotsConfig(detector=detector, min_shot_s=2.5)) == [(0, 6)]
    assert find_shots(clips / "cuts.mp4", ShotsConfig(detector=detector, threshold=255)) == [(0, 6)]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_real_clip_with_a_cut_through_black(real_clips: Path, detector: Any) -> None:
    found = find_shots(real_clips / "sintel_10s.mp4", ShotsConfig(detector=detector))
    # Black from frame 104 to 165, and a hard cut at frame 214, of 240 at 24 fps.
    assert [start for start, _ in found] == [0, pytest.approx(135 / 24, abs=0.2), 214 / 24]
    assert found[-1][1] == 10


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("name", ["three_shots.ts", "three_shots.mp4"])
def test_shots_of_every_container(faulty: Path, detector: Any, name: str) -> None:
    assert find_shots(faulty / name, ShotsConfig(detector=detector)) == [(0, 2), (2, 4.5), (4.5, 7)]


@pytest.mark.parametrize("detector", DETECTORS)
def test_shots_of_a_variable_rate_are_where_they_are_seen(faulty: Path, detector: Any) -> None:
    found = find_shots(faulty / "vfr_shots.mp4", ShotsConfig(detector=detector))
    assert found == [(0, 4), (4, pytest.approx(6, abs=0.05))]


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "mpeg2video"), ("avi", "mpeg4"), ("webm", "libvpx")])
def test_shots_of_other_codecs_at_two_rates(tmp_path: Path, suffix: str, codec: str) -> None:
    """A second of eight frames, then two of 24 that show something else."""
    slow = tuple(Fraction(index, 8) for index in range(8)) if suffix != "avi" else ()
    first = 1 if slow else 0
    stamps = (*slow, *(first + Fraction(index, 24) for index in range(48)))
    colours = [30] * len(slow) + [200] * 24 + [90] * 24

    def colour(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), colours[number], np.uint8)

    write(tmp_path / f"film.{suffix}", Film(codec, stamps=stamps, picture=colour, size=(64, 48)))
    found = find_shots(tmp_path / f"film.{suffix}", ShotsConfig(detector="content"))
    wanted = [*([(0, 1)] if slow else []), (first, first + 1), (first + 1, first + 2)]
    assert [(round(start, 2), round(end, 2)) for start, end in found] == wanted


def test_what_is_no_video_is_a_row_error(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"not a video " * 99)
    (tmp_path / "cut.mp4").write_bytes((clips / "one.mp4").read_bytes()[:400])
    for name in ("text.mp4", "cut.mp4", "gone.mp4"):
        with pytest.raises(RowError) as caught:
            find_shots(tmp_path / name, ShotsConfig())
        assert caught.value.reason == Reason.DECODE_ERROR
        assert str(tmp_path) not in caught.value.detail


@given(
    cuts=st.lists(st.floats(0, 10), max_size=20).map(sorted),
    end=st.floats(0.1, 10),
    shortest=st.floats(0.01, 3),
)
def test_spans_cover_the_clip_and_none_is_too_short(cuts: list[float], end: float, shortest: float) -> None:
    found = spans([cut for cut in cuts if cut < end], end, shortest)
    assert found[0][0] == 0
    assert found[-1][1] == end
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert len(found) == 1 or min(stop - start for start, stop in found) >= shortest


def _row(uri: str, sha: str, media: str = "video", span: tuple[float, float] | None = None) -> dict[str, Any]:
    start, end = span or (None, None)
    row = {"clip_id": clip_id(sha, start, end), "uri": uri, "media": media, "source": "web", "caption": "words",
           "sha256": sha, "num_bytes": 1, "span_start_s": start, "span_end_s": end, "extra": "{}"}  # fmt: skip
    return row | status_ok()


def test_a_clip_becomes_its_shots(clips: Path, tmp_path: Path) -> None:
    rows = [
        _row("cuts.mp4", "aa"), _row("cuts.mp4", "aa", span=(2, 4)), _row("one.mp4", "bb"),
        _row("still.png", "cc", "image"), _row("gone.mp4", "dd"),
        _row("late.mp4", "ee") | {"status": "quarantined", "reason": "missing_file", "reason_stage": "ingest"},
    ]  # fmt: skip
    config, env = ShotsConfig(), Env(str(clips))
    (tmp_path / "data").mkdir()
    pq.write_table(to_table(rows, INGEST), tmp_path / "data" / "part.parquet")
    finished = computed(SPLIT_OPERATOR, {"clips": Input(tmp_path)}, config, env)
    assert finished.schema == INGEST
    found = finished.to_pylist()
    assert len({row["clip_id"] for row in found}) == len(found) == 8
    shots = [row for row in found if row["parent_id"] is not None]
    assert {row["parent_id"] for row in shots} == {clip_id("aa", None, None)}
    assert [(row["span_start_s"], row["span_end_s"], row["reason"]) for row in shots] == [
        (0, 2, None), (2, 4, "duplicate_content"), (4, 6, None)
    ]  # fmt: skip
    assert shots[0]["clip_id"] == clip_id("aa", 0, 2)
    assert (shots[0]["caption"], shots[0]["status"]) == ("words", "ok")
    rest = {row["clip_id"]: row for row in found if row["parent_id"] is None}
    for row in rows[1:4]:
        assert rest[row["clip_id"]] == row | {"parent_id": None}
    assert rest[rows[4]["clip_id"]]["reason"] == "missing_file"
    assert rest[rows[4]["clip_id"]]["reason_stage"] == "split"
    assert rest[rows[5]["clip_id"]]["reason_stage"] == "ingest"
