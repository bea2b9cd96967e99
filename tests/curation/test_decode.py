from __future__ import annotations

import csv
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from curation.decode import PROBE_OPERATOR, ProbeConfig, clip_times, frames_at
from curation.decode_limits import DecodeLimits
from curation.decoder import Decoder
from curation.manifests import clip_id
from curation.operator import Env, apply
from curation.rules import Rules, failed_rules
from curation.schema import INGEST, status_ok, to_table
from tests.curation.numbered import Film, number_of, write

Span = tuple[float | None, float | None]


def probed(root: Path, spans: Iterable[tuple[str, Span]]) -> list[dict[str, Any]]:
    """The rows of `probe`, in the order given."""
    rows = []
    for name, (start, end) in spans:
        row = {"uri": name, "media": "video", "source": "web", "caption": "words", "sha256": name, "num_bytes": 1}
        row |= {"span_start_s": start, "span_end_s": end, "clip_id": clip_id(name, start, end), "extra": "{}"}
        rows.append(row | status_ok())
    assert PROBE_OPERATOR.map is not None
    compute = PROBE_OPERATOR.map(ProbeConfig(), Env(str(root)))
    return apply(PROBE_OPERATOR, compute, to_table(rows, INGEST)).to_pylist()


def failed(rows: Iterable[dict[str, Any]], **limits: float) -> list[bool]:
    return [bool(failed_rules(row | {"motion_score": 1.0}, Rules(**limits))) for row in rows]  # type: ignore[arg-type]


def test_rules_on_duration_go_by_the_span(faulty: Path) -> None:
    with (faulty / "spans.csv").open(newline="") as file:
        given = [(row["video"], (float(row["span_start_s"]), float(row["span_end_s"]))) for row in csv.DictReader(file)]
    rows = probed(faulty, given)
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert failed(rows, max_duration_s=5) == [False, True, False]
    assert failed(rows, min_duration_s=2) == [False, False, True]
    assert [row["file_duration_s"] for row in rows] == pytest.approx([200 / 24] * 3)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4"), ("mpg", "mpeg2video")])
def test_a_span_is_measured_and_read_by_itself(tmp_path: Path, suffix: str, codec: str) -> None:
    stamps = tuple(Fraction(index, 25) for index in range(200))
    write(tmp_path / f"film.{suffix}", Film(codec, stamps=stamps, rate=Fraction(25), b_frames=2))
    spans: list[tuple[str, Span]] = [
        (f"film.{suffix}", span) for span in ((None, None), (2.0, 5.0), (6.0, 99.0), (8.0, 9.0))
    ]
    whole, middle, end, outside = probed(tmp_path, spans)
    assert [row["duration_s"] for row in (whole, middle, end)] == pytest.approx([8, 3, 2])
    assert [row["frames_shown"] for row in (whole, middle, end)] == [200, 75, 50]
    assert {row["frames_decodable"] for row in (whole, middle, end)} == {200}
    assert (outside["status"], outside["reason"]) == ("filtered", "too_few_frames")
    assert failed([whole, middle, end], max_duration_s=4, min_duration_s=2.5) == [True, False, True]
    decoder = Decoder(DecodeLimits())
    for row, first in ((middle, 50), (end, 150)):
        times = clip_times(row, [step * 0.4 for step in range(100)])
        assert len(times) == row["frames_shown"] // 10 + (row["frames_shown"] % 10 > 0)
        frames = frames_at(decoder, row, Env(str(tmp_path)), times)
        assert [number_of(image) for image in frames.pixels] == [first + 10 * step for step in range(len(times))]
    decoder.close()


def test_what_repeats_and_what_is_missing_can_be_selected_on(tmp_path: Path) -> None:
    film = Film(
        stamps=(*(Fraction(index, 10) for index in range(10)), Fraction(3), Fraction(31, 10)), rate=Fraction(10)
    )
    write(tmp_path / "gap.mp4", film)
    write(tmp_path / "even.mp4", Film(stamps=tuple(Fraction(index, 10) for index in range(32)), rate=Fraction(10)))
    rows = probed(tmp_path, [("gap.mp4", (None, None)), ("even.mp4", (None, None))])
    assert [row["frames_shown"] for row in rows] == [12, 32]
    assert rows[0]["max_gap_s"] == pytest.approx(2.1)
    assert failed(rows, scores={"max_gap_s": {"max": 0.5}}) == [True, False]  # type: ignore[arg-type]
    assert failed(rows, scores={"frames_shown": {"min": 20}}) == [True, False]  # type: ignore[arg-type]
    assert failed(rows, scores={"interlaced": {"max": 0}, "hdr": {"max": 0}}) == [False, False]  # type: ignore[arg-type]
