"""The page of a sweep: its arms side by side, and what seeds make of them, on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.formats import counted, duration, figure, interval
from lumina.pages.charts import Forest, Interval
from lumina.pages.page import Cell, render
from pipelines.engine.store.sweep_record import SweepRecord
from pipelines.reports.sweep_words import Words, answer, noise_text, verdict, words
from pipelines.terminal import clean, command_line

TEMPLATE = Path(__file__).with_name("sweep.html.j2")


def sweep_page(record: SweepRecord, store: str) -> str:
    """Fill the template; the same record gives the same bytes. `store` is what `--store` takes."""
    states = [run.state for run in record.runs]
    arms = list(dict.fromkeys(run.arm for run in record.runs))
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    found = record.comparison if record.comparison and "problem" not in record.comparison else None
    said = words(found) if found else None
    seeds = max((sum(run.arm == arm for run in record.runs) for arm in arms), default=0)
    return render(
        TEMPLATE,
        clean,
        record=record,
        answer=answer(record),
        tiles_=[
            (counts, counted(len(states), "run")),
            (str(len(arms)), "arms, with one seed each" if seeds <= 1 else f"arms, with {seeds} seeds each"),
            (f"{record.computations:,}", f"computations, in place of {record.unshared:,} without sharing"),
        ],
        found=found,
        said=said,
        problem=(record.comparison or {}).get("problem", ""),
        noise=noise_text(found) if found else "",
        scores=_scores(found, said) if found and said else None,
        gaps=_gaps(found, said) if found and said else None,
        singles=Forest([Interval(one["title"], *_ends(one["score"])) for one in _by_arm(found)]) if found else None,
        columns=("figure", *(one["arm"] for one in found["arms"])) if found else (),
        figures=_figures(found) if found else [],
        rule=" + ".join(
            (f"{weight:g} × " if weight != 1 else "") + name for name, weight in sorted(found["score"].items())
        )
        if found
        else "",
        runs=[
            [
                Cell(run.title, "; ".join(run.changes)),
                Cell(run.state, "", "bad" if run.state == "failed" else ""),
                run.run or "–",
                duration(run.seconds) if run.seconds else "–",
            ]
            for run in record.runs
        ],
        commands=[
            ("the sweep, which goes on with what is not done", record.command),
            *(
                (f"the page of {run.title}", command_line(["lumina", "report", run.run, "--store", store]))
                for run in record.runs
                if run.run is not None
            ),
        ],
    )


def _interval(name: str, found: Mapping[str, Any], arm: Mapping[str, Any], said: Words) -> Interval:
    told = verdict(arm, said)
    # To keep most is neither good nor bad.
    styles = {} if said.neutral else {said.best: "good", said.worse: "bad"}
    return Interval(name, *_ends(found), told, styles.get(told, ""))


def _ends(found: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return found["value"], found["low"], found["high"]


def _scores(found: Mapping[str, Any], said: Words) -> Forest:
    return Forest([_interval(one["arm"], one["score"], one, said) for one in found["arms"]])


def _gaps(found: Mapping[str, Any], said: Words) -> Forest | None:
    rows = [_interval(one["arm"], one["below_best"], one, said) for one in found["arms"] if one["below_best"]]
    return Forest(rows, gaps=True) if rows else None


def _by_arm(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs, those of the best arm first."""
    order = [one["arm"] for one in found["arms"]]
    return sorted(found["runs"], key=lambda one: order.index(one["arm"]))


def _figures(found: Mapping[str, Any]) -> list[list[Cell]]:
    """Every figure by arm; what stands under it is its interval and how far its seeds lie apart."""
    above = [name for name in found["metrics"] if name in found["score"]]
    rows = []
    for name in [*above, *(name for name in found["metrics"] if name not in above)]:
        one = found["metrics"][name]
        cells = []
        for arm in (ranked["arm"] for ranked in found["arms"]):
            own = one["arms"][arm]
            note = interval(own["low"], own["high"])
            if own["spread"] is not None:
                note += f" by seed ±{figure(own['spread'] / 2)}"
            cells.append(Cell(figure(own["value"]), note, "differs" if own["differs"] else ""))
        rows.append([Cell(name, str(one["meaning"])), *cells])
    return rows
