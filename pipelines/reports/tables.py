"""Tables at the end of a run: what each stage did, how the system prompts compare, what was chosen."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from lumina.formats import duration, figure, interval
from pipelines.engine.events import RunSummary
from pipelines.engine.store.manifest import Manifest
from pipelines.reports.evaluations import Evaluated, Evaluations, Figure
from pipelines.reports.progress import state_text
from pipelines.terminal import Text, titled_table


def comparison_view(found: Sequence[Evaluations]) -> RenderableType:
    """The system prompts side by side, the choice with its reason, then the fine-tuned model."""
    parts = [part for one in found for part in _parts(one)]
    return Group(*(parts or [Text("This run has no evaluation yet.", "dim")]))


def _parts(found: Evaluations) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if found.sources:
        parts.append(_figures(f"System prompts{found.where}", found.sources, found.chosen))
    if found.selection:
        parts.append(_choice(found.selection))
    if found.final:
        on = ", ".join(found.chosen) or "the chosen sources"
        parts.append(_figures(f"Fine-tuned{found.where} on {on}", found.final, [found.final[1].title]))
    return parts


def _figures(title: str, columns: Sequence[Evaluated], chosen: Sequence[str]) -> Table:
    table = titled_table(title)
    table.add_column("metric")
    for one in columns:
        star = one.title in chosen
        head = Text(f"★ {one.title}" if star else one.title, "bold green" if star else "bold")
        table.add_column(head, justify="right", no_wrap=True)
    for metric in dict.fromkeys(name for one in columns for name in one.figures):
        table.add_row(metric, *(_figure(one.figures.get(metric)) for one in columns))
    if any(one.clips for one in columns):
        table.add_section()
        table.add_row(Text("clips", "dim"), *(Text(str(one.clips or ""), "dim") for one in columns))
    return table


def _figure(found: Figure | None) -> Text:
    if found is None or found.get("value") is None:
        return Text("–", "dim")
    text = Text(figure(found["value"]))
    return text.append(f"  {interval(found.get('low'), found.get('high'))}".rstrip(), "dim")


def _choice(selection: Mapping[str, Any]) -> RenderableType:
    by_hand = " by hand" if selection.get("decided_by") == "hand" else ""
    text = Text(f"Chosen{by_hand}: ", "bold").append(", ".join(selection["sources"]), "bold green")
    reason = textwrap.fill(str(selection.get("reason", "")), 110)
    return Group(*_below_best(selection), text, Text(reason, "dim"), Text(""))


def _below_best(selection: Mapping[str, Any]) -> list[Table]:
    """How far every other source lies below the best, and whether that is more than chance."""
    gaps = [row for row in selection["table"] if row["below_best"] is not None]
    if not gaps:
        return []
    title = f"Score below {selection['table'][0]['source']}, for all pairs at once"
    table = titled_table(title)
    for name in ("system prompt", "below", ""):
        table.add_column(name, justify="right" if name == "below" else "left", no_wrap=True)
    for row in gaps:
        alike = "cannot be told apart" if selection.get("scores", {}).get("per_clip", True) else "no error bars"
        verdict = Text(alike, "dim") if row["in_best_set"] else Text("significantly worse", "bold red")
        table.add_row(row["source"], _figure(row["below_best"]), verdict)
    return [table]


def summary_view(summary: RunSummary) -> RenderableType:
    """What each stage did, as a table with a line in bold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("output", ratio=1)
    table.add_column("digest", no_wrap=True)
    for outcome in summary.outcomes.values():
        manifest = outcome.manifest
        digest = manifest.digest.rpartition(":")[2][:12] if manifest else ""
        output = Text(output_text(manifest)) if manifest else Text(outcome.error, "red")
        if outcome.drift:
            output.append(f"; {outcome.drift}", "yellow")
        table.add_row(outcome.name, state_text(outcome.state), duration(outcome.seconds), output, Text(digest, "dim"))
    states = [outcome.state for outcome in summary.outcomes.values()]
    cached, total = states.count("cached"), len(states)
    if cached == total:
        line = Text(
            f"Every stage is cached: all {total} were in the store ({duration(summary.seconds)}).", "bold green"
        )
    elif summary.ok:
        line = Text(f"{total} stages done, {cached} of them cached, in {duration(summary.seconds)}.", "bold green")
    else:
        counts = [(state, states.count(state)) for state in ("done", "cached", "failed", "blocked", "interrupted")]
        ended = ", ".join(f"{number} {state}" for state, number in counts if number)
        line = Text(f"{total} stages: {ended}, in {duration(summary.seconds)}.", "bold red")
    return Group(table, line, Text(""))


def output_text(manifest: Manifest) -> str:
    """What a stage made: `12 rows: 9 ok, 2 quarantined, 1 filtered; 8 taken from earlier outputs`."""
    taken = sum(manifest.taken.values())
    text = _counts_text(manifest.counts) or manifest.kind
    return f"{text}; {taken} taken from earlier outputs" if taken else text


def _counts_text(counts: Mapping[str, int]) -> str:
    if "in" not in counts:
        return ", ".join(f"{value} {key}" for key, value in counts.items())
    parts = [f"{counts.get('ok', 0)} ok"]
    for kind in ("quarantined", "filtered"):
        number = sum(value for key, value in counts.items() if key.startswith(f"{kind}/"))
        if number:
            parts.append(f"{number} {kind}")
    return f"{counts['in']} rows: {', '.join(parts)}"
