"""What attempts leave: numbers that never come twice, whole points, and runs by tracking server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.tracking.attempts import Attempts
from pipelines.tracking.events import Point

POINT = Point({"loss": 0.5}, 1, 7)


def test_attempts_are_numbered_also_when_the_points_are_gone(tmp_path: Path) -> None:
    curve = tmp_path / "curve.jsonl"
    first = Attempts(curve, "run-a")
    assert (first.number, first.points, first.earlier) == (1, [], [])
    first.add_point(POINT)
    second = Attempts(curve, "run-b")
    assert (second.number, second.points, second.earlier) == (2, [POINT], ["run-a"])
    # All work lost.
    curve.unlink()
    third = Attempts(curve, "run-c")
    assert (third.number, third.points) == (3, [])
    assert Attempts(curve, "run-d").earlier == ["run-a", "run-b", "run-c"]


@pytest.mark.parametrize("cut", [1, 2, 30, 60])
def test_a_line_cut_anywhere_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    curve = tmp_path / "curve.jsonl"
    first = Attempts(curve, "a")
    for step in range(3):
        first.add_point(replace(POINT, step=step))
    whole = curve.read_text()
    size = len(whole) // 3
    curve.write_text(whole[: -min(cut, size)])
    second = Attempts(curve, "b")
    assert [point.step for point in second.points] == [0, 1]
    second.add_point(replace(POINT, step=2))
    assert [point.step for point in Attempts(curve, "c").points] == [0, 1, 2]


def test_a_directory_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "gone" / "curve.jsonl", "a")
    attempts.add_point(POINT)
    assert (attempts.number, attempts.points) == (1, [])


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"attempt": "x"}', '{"metrics": {"loss": "x"}, "step": 0, "time_ms": 0}', "[" * 9999]
)
def test_a_line_of_another_shape_costs_that_line_alone(tmp_path: Path, line: str) -> None:
    curve = tmp_path / "curve.jsonl"
    Attempts(curve, "a").add_point(POINT)
    for path in (curve, tmp_path / "attempts.jsonl"):
        with path.open("a") as file:
            file.write(line + "\n")
    second = Attempts(curve, "b")
    assert (second.number, second.points, second.earlier) == (2, [POINT], ["a"])


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "s").mkdir()
    for name in ("curve.jsonl", "attempts.jsonl"):
        (tmp_path / "s" / name).symlink_to(outside)
    Attempts(tmp_path / "s" / "curve.jsonl", "a").add_point(POINT)
    assert outside.read_text() == "mine"
