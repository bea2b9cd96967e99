"""`lumina report`: a recorded run on one self-contained page, from what the store holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.diff.runs import Side, read_side
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.reports.html import fill, script_source
from pipelines.reports.page.charts import training_charts
from pipelines.reports.page.clips import clip_sheet
from pipelines.reports.page.comparison import Forest, Table, figure_table, gap_forest, number_text, score_forest
from pipelines.reports.page.evaluated import Evaluated, read_final, read_selection, read_sources
from pipelines.reports.page.motion import motion_table
from pipelines.reports.page.stages import draw, stage_rows
from pipelines.reports.progress import duration
from pipelines.terminal import command_line

TEMPLATE = Path(__file__).with_name("report.html.j2")
SCRIPT = Path(__file__).with_name("report.js")


def make_page(store: Store, record: RunRecord) -> str:
    """The page of a recorded run; the same store gives the same bytes.

    Args:
        store: where the outputs are.
        record: of the run.

    Raises:
        StoreError: an output cannot be read.
    """
    side = read_side(store, record)
    evaluated = read_sources(side)
    afters = ["", *(name.partition("@")[2] for name in side.stages if name.startswith("choose@"))]
    subsets = [_subset(side, after, evaluated.get(after, [])) for after in afters]
    rows, cost = stage_rows(side, record)
    script = SCRIPT.read_text(encoding="utf-8")
    inputs = {name: list(entry.inputs.values()) for name, entry in record.stages.items()}
    states = [held.state for held in side.stages.values()]
    return fill(
        TEMPLATE,
        side=side,
        record=record,
        took=duration(side.seconds),
        states={state: states.count(state) for state in dict.fromkeys(states)},
        answer=_answer(subsets[0].selection, record),
        selection=subsets[0].selection,
        sources=subsets[0].sources,
        subsets=subsets,
        sheets=[sheet for one in subsets for sheet in one.sheets],
        training=training_charts(side),
        graph=draw(side, inputs),
        stages=rows,
        cost=cost,
        commands=_commands(side, record),
        settings=[(name, _settings(held.recipe)) for name, held in side.stages.items() if held.recipe],
        script=script,
        script_source=script_source(script),
    )


@dataclass(frozen=True)
class _Subset:
    """Evaluation, choice and fine-tuning after one training stage."""

    title: str
    """Empty for the last stage."""
    selection: Mapping[str, Any] | None
    scores: Forest | None
    gaps: Forest | None
    rule: str
    sources: Table | None
    final: Table | None
    disjoint: bool
    motion: Any
    sheets: list[tuple[str, str, Any]]


def _subset(side: Side, after: str, found: list[Evaluated]) -> _Subset:
    selection = read_selection(side, after)
    sources = _in_order(found, selection)
    final = read_final(side, after)
    scored = selection["rule"]["score"] if selection else ()
    title = f" after train@{after}" if after else ""
    return _Subset(
        title=title,
        selection=selection,
        scores=score_forest(selection) if selection else None,
        gaps=gap_forest(selection) if selection else None,
        rule=_rule(selection) if selection else "",
        sources=figure_table(sources, 0, changes=False, first_named=scored) if sources else None,
        final=figure_table(final, 0, changes=True, first_named=scored) if final else None,
        disjoint=all(one.content.get("disjoint", False) for one in (*sources, *final)),
        motion=motion_table([*sources, *final]) if sources or final else None,
        sheets=[
            (f"{what}{title}", note, clip_sheet([(one.title, one.output, one.rows) for one in group]))
            for what, note, group in (
                ("Before and after fine-tuning", "the reporting half", final),
                ("System prompts", "the choosing half", sources),
            )
            if group
        ],
    )


def _in_order(found: list[Evaluated], selection: Mapping[str, Any] | None) -> list[Evaluated]:
    """The best first, as in the choice; then those that were left out of it."""
    order = [row["source"] for row in selection["table"]] if selection else []
    return sorted(found, key=lambda one: (order.index(one.title) if one.title in order else len(order), one.title))


def _answer(selection: Mapping[str, Any] | None, record: RunRecord) -> str:
    """The headline."""
    failed = [name for name, entry in record.stages.items() if entry.state == "failed"]
    if failed:
        return f"{', '.join(failed)} failed"
    if selection is None:
        return "No system prompt has been chosen yet"
    best = selection["table"][0]
    head = f"{best['source']} scores highest: {number_text(best['score']['value'])}"
    if selection.get("decided_by") == "hand":
        return f"{' and '.join(selection['sources'])} chosen by hand; {head}"
    others = len(selection["table"]) - 1
    worse = len(selection["table"]) - len(selection["best_set"])
    if not others:
        return f"{head}; it is the only system prompt"
    if not selection.get("scores", {}).get("per_clip", True):
        return f"{head}, without error bars"
    if not worse:
        return f"{head}, but no other is significantly worse"
    return f"{head}; {worse} of {others} others significantly worse"


def _rule(selection: Mapping[str, Any]) -> str:
    rule = selection["rule"]
    score = " + ".join(
        (f"{weight:g} × " if weight != 1 else "") + name for name, weight in sorted(rule["score"].items())
    )
    weights = sum(abs(weight) for weight in rule["score"].values())
    told = f"score = ({score}) / {weights:g}"
    if "standardised" in selection:
        told += ", each in standard deviations of its values over prompts and sources"
    if files := selection.get("scores", {}).get("files"):
        digests = ", ".join(digest.removeprefix("sha256:")[:12] for digest in files.values())
        told += f"; scores from elsewhere ({digests})"
    if selection.get("decided_by") == "hand":
        return f"{told}; it did not decide"
    tie = "the highest is taken" if rule["on_tie"] == "best" else "all of them are taken"
    return f"{told}; where several cannot be told apart, {tie}; seed {rule['seed']}"


def _commands(side: Side, record: RunRecord) -> list[tuple[str, str]]:
    """(what for, command), only such as this run can be given to."""
    run, store = command_line([side.run]), command_line([side.store])
    found = []
    commits = sorted({str(h.manifest.git["commit"]) for h in side.stages.values() if h.manifest and h.manifest.git})
    dirty = any(held.manifest.git.get("dirty") for held in side.stages.values() if held.manifest)
    for commit in commits:
        what = "the code" if len(commits) == 1 else "code of some stages"
        found.append((what + (", which had uncommitted changes" if dirty else ""), f"git checkout {commit}"))
    if lock := record.lock:
        found.append(("the command that started it", str(lock["command"])))
        if not side.in_bucket:
            found.append(("compute it again, and compare", f"lumina rerun {run} --store {store}"))
    found.append(("check that the outputs are what the run left", f"lumina verify {run} --deep --store {store}"))
    found.append(("the figures in a terminal", f"lumina compare {run} --store {store}"))
    found.append(("this page", f"lumina report {run} --store {store}"))
    for name, export in side.stages.items():
        if name.partition("@")[0] != "export" or not export.output:
            continue
        # What lies in a bucket is copied first, whether or not it is on this machine: the page goes to others.
        what = f"a clip, once {export.output} is copied to the folder checkpoint" if side.in_bucket else "a clip"
        checkpoint = "checkpoint" if side.in_bucket else command_line([str(export.output)])
        prompt = "A red circle moves to the right."
        found.append((what, f"lumina generate --checkpoint {checkpoint} --prompt {command_line([prompt])}"))
    return found


def _settings(recipe: Mapping[str, Any]) -> str:
    parts = {key: recipe[key] for key in ("config", "inputs", "weights", "depends") if recipe.get(key)}
    return json.dumps(parts, indent=1, ensure_ascii=False)
