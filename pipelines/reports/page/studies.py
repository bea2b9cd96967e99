"""Studies on a page: differences from the reference as intervals, all figures, and quality over cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.evaluation.study import headline, pareto_front
from lumina.formats import duration, figure, interval
from lumina.pages.charts import COLORS, Axis, Chart, Forest, Interval, Line
from lumina.pages.page import Cell, render
from pipelines.reports.studies import verdict
from pipelines.terminal import clean

TEMPLATE = Path(__file__).with_name("study.html.j2")
PART = Path(__file__).with_name("studies.html.j2")
"""What `study.html.j2` and the page of a run have in common."""


@dataclass(frozen=True)
class StudySection:
    """One study as the template shows it."""

    content: Mapping[str, Any]
    figure: str
    """That arms are ranked by."""
    gaps: Forest | None
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    chart: Chart | None


def study_section(content: Mapping[str, Any]) -> StudySection:
    """Arrange a study, as `lumina.evaluation.study.read_study` has it."""
    main, order, arms = headline(content), content["order"], content["arms"]
    front = pareto_front(content, main)
    gaps = [
        Interval(name, gap["value"], gap["low"], gap["high"], verdict(gap).plain, _style(gap))
        for name in order
        if (gap := arms[name].get("difference", {}).get(main)) is not None
    ]
    rows = [
        [Cell("cost", "of the finest scale alone"), *(Cell(f"{arms[name]['cost']['relative']:.3f}") for name in order)],
        [Cell("a clip", "sampled and decoded"), *(_seconds(arms[name]["seconds_per_clip"]) for name in order)],
    ]
    rows += [
        [Cell(name, content["meaning"].get(name, "")), *(_cell(arms[arm], name) for arm in order)]
        for name in content["figures"]
    ]
    titles = [f"★ {name}" if name in front else name for name in order]
    return StudySection(
        content, main, Forest(gaps, gaps=True) if gaps else None, ("figure", *titles), rows, _chart(content)
    )


def study_page(studies: Mapping[str, Mapping[str, Any]], subject: str) -> str:
    """The page of `lumina study`: one section for each study of a checkpoint."""
    return render(TEMPLATE, clean, subject=subject, studies=[study_section(one) for one in studies.values()])


def _cell(arm: Mapping[str, Any], name: str) -> Cell:
    one = arm["metrics"][name]
    differs = arm.get("difference", {}).get(name, {}).get("significant", False)
    return Cell(figure(one["value"]), interval(one["low"], one["high"]), "differs" if differs else "")


def _seconds(seconds: float | None) -> Cell:
    return Cell("–" if seconds is None else duration(seconds))


def _style(gap: Mapping[str, Any]) -> str:
    if not gap["significant"]:
        return ""
    return "bad" if gap["value"] < 0 else "good"


def _chart(content: Mapping[str, Any]) -> Chart | None:
    """Every arm as a point with its interval, and the front as a line."""
    main, arms = headline(content), content["arms"]
    costs = {name: one["cost"]["relative"] for name, one in arms.items()}
    # Arms of motion and guidance mostly cost the same: over one cost there is nothing to see.
    if max(costs.values()) - min(costs.values()) < 1e-3:
        return None
    found = {name: one["metrics"][main] for name, one in arms.items()}
    ends = [end for one in found.values() for end in one.values() if end is not None]
    margin = 0.05 * (max(ends) - min(ends)) or 0.1
    front = [(costs[name], found[name]["value"]) for name in pareto_front(content, main)]
    label = f"{main} over cost: " + "; ".join(
        f"{name} {found[name]['value']:.3g} at {costs[name]:.3g}" for name in content["order"]
    )
    lines = [Line("no other is as cheap and better", COLORS, front, dashed=True)]
    for color, name in enumerate(content["order"]):
        one = found[name]
        bar = [(costs[name], end) for end in (one["low"], one["high"]) if end is not None]
        lines.append(Line(name, min(color, COLORS), bar, dots=[(costs[name], one["value"])]))
    x = Axis(0, 1.05 * max(costs.values()), "cost, of the finest scale alone")
    return Chart(f"{main} over cost", label, x, Axis(min(ends) - margin, max(ends) + margin), lines)
