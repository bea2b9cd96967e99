"""`lumina report`: a recorded run on one self-contained page, from what the store holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.train_plots import NOTE, charts
from lumina.evaluation.selection import Selection
from lumina.formats import duration, figure, short_digest
from lumina.pages.charts import Chart, Forest
from lumina.pages.page import render
from lumina.parts import SOUND_FILE
from pipelines.compare.metrics import CURVES, read_curve
from pipelines.compare.runs import Side, read_side
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.reports.evaluations import Evaluations, read_evaluations
from pipelines.reports.page.clips import clip_sheet
from pipelines.reports.page.figures import (
    FigureTable,
    MotionTable,
    figure_table,
    gap_forest,
    motion_table,
    score_forest,
)
from pipelines.reports.page.samples import sample_rows
from pipelines.reports.page.stages import COLUMNS, draw, stage_rows
from pipelines.reports.page.studies import study_section
from pipelines.reports.sounds import read_sounds
from pipelines.reports.studies import read_studies
from pipelines.terminal import clean, command_line

TEMPLATE = Path(__file__).with_name("report.html.j2")
SOUND_TEMPLATE = Path(__file__).with_name("sounds.html.j2")
SOUND_SCRIPT = Path(__file__).with_name("sounds.js")
_SOUND_PIPELINE = "video_to_audio"


def make_page(store: Store, record: RunRecord) -> str:
    """The page of a recorded run; the same store gives the same bytes.

    Args:
        store: where the outputs are.
        record: of the run.

    Raises:
        StoreError: an output cannot be read.
    """
    side = read_side(store, record)
    if record.pipeline == _SOUND_PIPELINE:
        return _sound_page(store, record, side)
    parts = [_part(found) for found in read_evaluations(side)]
    first = parts[0]
    tiles = [
        *_tiles(side, record),
        (", ".join(first.found.chosen), "chosen for fine-tuning"),
        (first.sources and f"{first.found.sources[0].clips:,}", "clips a system prompt"),
    ]
    return render(
        TEMPLATE,
        clean,
        plays=True,
        tiles_=[(large, small) for large, small in tiles if large],
        answer=_failed(record) or _answer(first.found.selection),
        selection=first.found.selection,
        parts=parts,
        studies=[study_section(one) for one in read_studies(side).values()],
        sheets=[sheet for one in parts for sheet in one.sheets],
        **_of_any_run(side, record),
    )


def _sound_page(store: Store, record: RunRecord, side: Side) -> str:
    """The page of a run that trains a video-to-audio model."""
    from pipelines.reports.page.sound_figures import comparison, conditions, headline
    from pipelines.reports.page.sounds import listen

    sounds = read_sounds(side)
    evaluated = [(stage, conditions(content)) for stage, content in sounds.evaluations.items()][::-1]
    compared = comparison(sounds)
    return render(
        SOUND_TEMPLATE,
        clean,
        script=SOUND_SCRIPT,
        tiles_=[*_tiles(side, record), *((f"{one.clips:,}", "held-out clips") for _, one in evaluated[:1])],
        answer=_failed(record) or headline(sounds),
        found=compared.found if compared else "",
        evaluated=[one for _, one in evaluated],
        comparison=compared,
        listening=next((listen(store, record, side, stage, one.checkpoint) for stage, one in evaluated), None),
        **_of_any_run(side, record),
    )


def _tiles(side: Side, record: RunRecord) -> list[tuple[str, str]]:
    states = [held.state for held in side.stages.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    stages = f"stages, until {record.until}" if record.until else "stages"
    return [(counts, stages), (duration(side.seconds), "this run took")]


def _of_any_run(side: Side, record: RunRecord) -> dict[str, Any]:
    """What `run_parts.html.j2` shows."""
    rows, cost = stage_rows(side, record)
    inputs = {name: list(entry.inputs.values()) for name, entry in record.stages.items()}
    return {
        "side": side,
        "training": [(stage, found) for stage, found in _training(side).items() if found],
        "samples": list(sample_rows(side).items()),
        "note": NOTE,
        "graph": draw(side, inputs),
        "columns": COLUMNS,
        "stages": rows,
        "cost": cost,
        "commands": _commands(side, record),
        "settings": [(name, _settings(held.recipe)) for name, held in side.stages.items() if held.recipe],
    }


@dataclass(frozen=True)
class _Part:
    """Evaluation, choice and fine-tuning after one training stage."""

    found: Evaluations
    scores: Forest | None
    gaps: Forest | None
    rule: str
    sources: FigureTable | None
    final: FigureTable | None
    disjoint: bool
    """Whether the fine-tuned model is judged on prompts that the choice has not seen."""
    motion: MotionTable | None
    sheets: list[tuple[str, str, Any]]
    """Title, which half of the prompts, clips."""


def _part(found: Evaluations) -> _Part:
    selection, sources, final = found.selection, found.sources, found.final
    if final:
        final = (replace(final[0], title=f"before ({final[0].title})"), *final[1:])
    scored = selection.rule["score"] if selection else ()
    every = [*sources, *final]
    return _Part(
        found,
        score_forest(selection) if selection else None,
        gap_forest(selection) if selection else None,
        _rule(selection) if selection else "",
        figure_table(sources, first_named=scored, chosen=found.chosen) if sources else None,
        figure_table(final, first_named=scored, changes=True) if final else None,
        all(one.content.get("disjoint", False) for one in every),
        motion_table(every) if every else None,
        [
            (f"{title}{found.where}", "all" if group[0].content.get("split") == "all" else half, clip_sheet(group))
            for title, half, group in (
                ("Before and after fine-tuning", "the reporting half", final),
                ("System prompts", "the choosing half", sources),
            )
            if group
        ],
    )


def _training(side: Side) -> dict[str, list[Chart]]:
    """The charts of every stage that left curves. StoreError if they cannot be read."""
    found = {}
    for name, held in side.stages.items():
        path = None if held.output is None else held.output.fetch(CURVES)
        if path is not None and (path / CURVES).is_file():
            rows = [{"step": step, **point} for step, point in read_curve(name, path).items()]
            found[name] = charts(name, rows, (held.recipe or {}).get("config", {}))
    return found


def _failed(record: RunRecord) -> str:
    """The headline of a run in which something failed."""
    failed = [name for name, entry in record.stages.items() if entry.state == "failed"]
    return f"{', '.join(failed)} failed" if failed else ""


def _answer(selection: Selection | None) -> str:
    """The headline."""
    if selection is None:
        return "No system prompt has been chosen yet"
    best = selection.table[0]
    head = f"{best.source} scores highest: {figure(best.score['value'])}"
    if selection.by_hand:
        return f"{' and '.join(selection.sources)} chosen by hand; {head}"
    others = len(selection.table) - 1
    worse = len(selection.table) - len(selection.best_set)
    if not others:
        return f"{head}; it is the only system prompt"
    if not selection.per_clip:
        return f"{head}, without error bars"
    if not worse:
        return f"{head}, but no other is significantly worse"
    return f"{head}; {worse} of {others} others significantly worse"


def _rule(selection: Selection) -> str:
    rule = selection.rule
    score = " + ".join(
        (f"{weight:g} × " if weight != 1 else "") + name for name, weight in sorted(rule["score"].items())
    )
    weights = sum(abs(weight) for weight in rule["score"].values())
    told = f"score = ({score}) / {weights:g}"
    if selection.standardised is not None:
        told += ", each in standard deviations of its values over prompts and sources"
    if selection.scores:
        digests = ", ".join(map(short_digest, selection.scores["files"].values()))
        told += f"; scores from elsewhere ({digests})"
    if selection.by_hand:
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
        sound = any(file.path == SOUND_FILE for file in export.output.manifest.files)
        what = "a sound for a clip" if sound else "a clip"
        what += f", once {export.output} is copied to the folder checkpoint" if side.in_bucket else ""
        checkpoint = "checkpoint" if side.in_bucket else command_line([str(export.output)])
        prompt = command_line(["A red circle moves to the right."])
        command = f"lumina generate --checkpoint {checkpoint} --prompt {prompt}"
        if sound:
            command = f"lumina sound clip.mp4 --checkpoint {checkpoint} --out sounding.mp4"
        found.append((what, command))
    return found


def _settings(recipe: Mapping[str, Any]) -> str:
    parts = {key: recipe[key] for key in ("config", "inputs", "weights", "depends") if recipe.get(key)}
    return json.dumps(parts, indent=1, ensure_ascii=False)
