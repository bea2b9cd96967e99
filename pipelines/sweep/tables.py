"""Terminal tables of a sweep: its plan, stage by stage, and how its runs stand."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType

from lumina.formats import counted, duration
from pipelines.engine.store.sweep_record import SweepRecord
from pipelines.reports.progress import state_text
from pipelines.sweep.plan import SharedStage, SweepPlan
from pipelines.terminal import Text, in_line, make_table


def sweep_plan_view(plan: SweepPlan) -> RenderableType:
    """The runs, what each stage is shared by, and a line in bold."""
    runs = make_table("", "~run", "~changes", title=f"{counted(len(plan.runs), 'run')}")
    for number, run in enumerate(plan.runs, 1):
        runs.add_row(str(number), in_line(run.title), in_line(" ".join(run.changes), "dim"))
    stages = make_table("stage", "runs", ">computed", ">cached", ">last took", "~")
    for stage in plan.stages:
        seconds = sum(one.last_seconds or 0.0 for one in stage.planned)
        stages.add_row(
            stage.name,
            Text(stage.letters, "bold cyan" if len(stage.planned) > 1 else "dim"),
            str(len(stage.planned)),
            str(stage.count("cached") or ""),
            duration(seconds) if seconds else "",
            _standing(stage),
        )
    return Group(
        runs, stages, Text("Runs with the same letter share the computation.", "dim"), Text(_line(plan), "bold")
    )


def _standing(stage: SharedStage) -> Text:
    """How a stage stands that is one computation; else how many are in each state."""
    states = [one.state for one in stage.planned]
    if len(set(states)) == 1:
        return state_text(states[0])
    return Text(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))


def _line(plan: SweepPlan) -> str:
    line = f"{plan.computations} computations in place of {plan.unshared} without sharing: {plan.cached} cached, "
    line += f"{plan.computations - plan.cached} to do"
    if plan.seconds:
        line += f"; the work took {duration(plan.seconds)} last time"
        if plan.unshared_seconds > plan.seconds:
            line += f", all runs alone {duration(plan.unshared_seconds)}"
    return line


def sweep_view(record: SweepRecord, doing: Mapping[str, str] | None = None) -> RenderableType:
    """How each run stands; `doing` is what those at work are at, by their names."""
    table = make_table("", "~run", ">time", "~")
    for run in record.runs:
        failed = run.state == "failed"
        said = in_line(run.error, "red") if failed else in_line((doing or {}).get(run.name, ""), "dim")
        sign = state_text({"waiting": "pending", "stopped": "interrupted"}.get(run.state, run.state))
        table.add_row(sign, in_line(run.title), duration(run.seconds) if run.seconds else "", said)
    return table


def ended_line(record: SweepRecord, whole: bool) -> Text:
    """`6 runs: 5 done, 1 failed`."""
    states = [run.state for run in record.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    style = "bold green" if set(states) == {"done"} else "bold yellow" if not whole else "bold red"
    return Text(f"{counted(len(states), 'run')}: {counts}", style)
