"""A study as tables and as a page: every arm with cost, time and figures, and what is significant."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from jobs.evaluation_parts import write_json
from lumina.evaluation.study import STUDY_FILE, TIMES_FILE, pareto_front, read_study
from pipelines.compare.runs import Side
from pipelines.errors import StoreError
from pipelines.reports.page.studies import study_page, study_section
from pipelines.reports.studies import plain_study, read_studies, studies_view


def _arm(cost: float, value: float, gap: float | None = None, significant: bool = False) -> dict[str, Any]:
    def figure(at: float) -> dict[str, float]:
        return {"value": at, "low": at - 0.1, "high": at + 0.1}

    found = {
        "sampler": {},
        "cost": {"relative": cost, "flops": 1, "evaluations": {}},
        "metrics": {"score": figure(value)},
    }
    if gap is not None:
        found["difference"] = {"score": {**figure(gap), "p": 0.5, "significant": significant}}
    return found


def write_study(folder: Path) -> Path:
    """Three arms, of which one is cheap and bad, and one dear and no better than the reference."""
    folder.mkdir(parents=True, exist_ok=True)
    arms = {"fine": _arm(1, 0.8), "<b>coarse": _arm(0.1, 0.3, -0.5, significant=True), "dear": _arm(2, 0.78, -0.02)}
    content = {
        "schema": "lumina-study/1", "study": "schedules", "system_prompt": "web", "prompts": 9, "samples": 1,
        "text_tokens": 256, "confidence": 0.95, "reference": "fine", "order": list(arms), "figures": ["score"],
        "score": {"shapes/colour_acc": 1.0}, "meaning": {"score": "weighted mean"}, "arms": arms,
    }  # fmt: skip
    write_json(folder / STUDY_FILE, content)
    write_json(folder / TIMES_FILE, {"device": "cpu", "seconds_per_clip": {"fine": 2.0, "dear": 4.0}})
    return folder


def _side(folder: Path) -> Side:
    held = SimpleNamespace(output=SimpleNamespace(fetch=lambda *names: folder))
    return cast(Side, SimpleNamespace(stages={"train@1": held, "study@schedules": held}))


def test_a_study_of_a_run_is_shown_with_what_is_significant(tmp_path: Path) -> None:
    studies = read_studies(_side(write_study(tmp_path)))
    assert pareto_front(studies["schedules"], "score") == ("<b>coarse", "fine")
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(studies_view(studies))
    text = console.export_text()
    coarse = next(line for line in text.splitlines() if "coarse" in line and "lower" in line)
    assert "★" in coarse
    assert "0.100" in coarse
    assert "−0.500 [−0.600, −0.400]" in coarse
    assert "cannot be told apart" in next(line for line in text.splitlines() if line.strip().startswith("dear"))
    assert "for all arms at once" in text.replace("\n", " ")
    assert plain_study(studies["schedules"])["front"] == ["<b>coarse", "fine"]
    page = study_page(studies, "exported")
    assert "&lt;b&gt;coarse" in page
    assert "<b>coarse" not in page
    assert 'title="differs"' in page


def test_arms_are_told_apart_over_their_cost(tmp_path: Path) -> None:
    [found] = read_studies(_side(write_study(tmp_path))).values()
    chart = study_section(found).chart
    assert chart is not None
    front, *arms = chart.lines
    assert [one.name for one in arms] == found["order"]
    of = [found["arms"][name] for name in found["order"]]
    assert [one.dots for one in arms] == [[(one["cost"]["relative"], one["metrics"]["score"]["value"])] for one in of]
    assert len({one.color for one in arms}) == len(arms)
    assert list(front.points) == [arms[found["order"].index(name)].dots[0] for name in pareto_front(found, "score")]
    for arm in arms:
        ends = [found["arms"][arm.name]["metrics"]["score"][end] for end in ("low", "high")]
        assert [end for _, end in arm.points] == ends
        assert chart.y.low < ends[0] < ends[1] < chart.y.high
    # Arms of motion cost the same.
    for one in found["arms"].values():
        one["cost"]["relative"] = 1.0
    assert study_section(found).chart is None


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / STUDY_FILE).write_text("{}")
    with pytest.raises(StoreError, match="is no study"):
        read_studies(_side(tmp_path))
    with pytest.raises(ValueError, match="lumina-study/1"):
        read_study(tmp_path)
