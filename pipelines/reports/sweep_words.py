"""Words for the comparison of a sweep's arms: its headline, the verdict over each arm, what seeds tell, the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rich.console import Group, RenderableType

from lumina.formats import counted, figure, interval
from pipelines.engine.store.sweep_record import SweepRecord
from pipelines.terminal import Text, in_line, make_table

Figure = Mapping[str, float | None]


@dataclass(frozen=True)
class Words:
    """What is said of arms that are judged by one kind of evaluation."""

    unit: str
    """What the intervals are over."""
    score: str
    """Heading of what arms are ranked by."""
    best: str
    """Verdict over the first arm."""
    leads: str
    """Verb of the headline."""
    worse: str
    """Verdict over an arm that lies below it for certain."""
    are_worse: str
    """The same of several, behind their number."""
    neutral: bool = False
    """More is not better in itself."""


_SCORED = ("highest", "scores highest", "significantly worse", "significantly worse")
_OF_KIND = {
    "clips": Words("prompt", "Score", *_SCORED),
    "sounds": Words("clip", "Score", *_SCORED),
    "selection": Words(
        "clip",
        "Share of clips kept",
        "keeps most",
        "keeps most",
        "keeps significantly less",
        "keep significantly less",
        neutral=True,
    ),
}


def words(found: Mapping[str, Any]) -> Words:
    """Those for a comparison."""
    return _OF_KIND[found["kind"]]


def answer(record: SweepRecord) -> str:
    """The headline of a sweep."""
    failed = sum(run.state == "failed" for run in record.runs)
    after = f"; {counted(failed, 'run')} failed" if failed else ""
    found = record.comparison
    if found is None:
        return f"No run is done yet{after}"
    if "problem" in found:
        done = sum(run.state == "done" for run in record.runs)
        return f"{done} of {counted(len(record.runs), 'run')} done, not compared{after}"
    best, *others = found["arms"]
    said = words(found)
    head = f"{best['arm']} {said.leads}: {figure(best['score']['value'])}"
    worse = [one["arm"] for one in others if one["worse"]]
    if not others:
        return f"{head}; it is the only arm that is done{after}"
    if not worse:
        return f"{head}, but no other arm can be told apart from it{after}"
    return f"{head}; {len(worse)} of {counted(len(others), 'other arm')} {said.are_worse}{after}"


def noise_text(found: Mapping[str, Any]) -> str:
    """What the seeds tell of noise, in a sentence."""
    noise, unit = found["noise"], words(found).unit
    if found["kind"] == "selection":
        return (
            "A selection draws nothing by a seed of training: the intervals hold for other clips of the same sources."
        )
    if noise is None:
        return (
            f"Every arm has one run: the intervals are of {unit}s alone, and what another seed of training would "
            "change is not in them; --seeds 0,1 measures it."
        )
    largest = max(one["spread"] or 0.0 for one in found["arms"])
    gaps = [abs(a["score"]["value"] - b["score"]["value"]) for a, b in combinations(found["arms"], 2)]
    beside = f"; arms differ by {figure(max(gaps))} at most" if gaps else ""
    return (
        f"Runs of one arm that differ by the seed alone lie up to {figure(largest)} apart (standard deviation "
        f"{figure(noise['sd'])}, {noise['freedom']} degrees of freedom){beside}. The intervals of arms hold for other "
        f"{unit}s and other seeds."
    )


def verdict(one: Mapping[str, Any], said: Words) -> str:
    """What is said of an arm beside the best one."""
    if one["below_best"] is None:
        return said.best
    if one["worse"]:
        return said.worse
    of_prompts = one["below_best_prompts"]["low"]
    if of_prompts is not None and of_prompts > 0:
        return "within the noise of seeds"
    return "cannot be told apart"


def comparison_view(record: SweepRecord) -> RenderableType:
    """The arms, best first, with what seeds make of them, and a line in bold."""
    found = record.comparison
    if found is None:
        return Text("")
    if "problem" in found:
        return Text(f"Not compared: {found['problem']}.", "yellow")
    said = words(found)
    below = "below the first" if said.neutral else "below the best"
    seeds = () if said.neutral else (">between seeds",)
    table = make_table("~arm", f">{said.score.lower()}", *seeds, f">{below}", "")
    styles = {} if said.neutral else {said.best: "bold green", said.worse: "bold red"}
    for one in found["arms"]:
        spread = "–" if one["spread"] is None else figure(one["spread"])
        told = Text(verdict(one, said), styles.get(verdict(one, said), "dim"))
        spreads = (spread,) if seeds else ()
        table.add_row(in_line(one["arm"]), _cell(one["score"]), *spreads, _cell(one["below_best"], True), told)
    return Group(table, Text(noise_text(found), "dim"), Text(answer(record), "bold"))


def _cell(found: Figure | None, sign: bool = False) -> Text:
    if found is None:
        return Text("")
    text = Text(figure(found["value"], sign))
    return text.append(f"  {interval(found['low'], found['high'], sign)}".rstrip(), "dim")
