"""Terminal tables of a plan, of the end of a run, and of garbage collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from lumina.formats import counted, duration, short_digest, size
from pipelines.engine.events import RunSummary
from pipelines.engine.plan import STATES, Plan
from pipelines.engine.store.gc import Collection, Item
from pipelines.engine.store.manifest import Manifest
from pipelines.reports.progress import state_text
from pipelines.terminal import Text, make_table

_NOUNS = {
    "output": ("output", "outputs"),
    "attempt": ("abandoned attempt", "abandoned attempts"),
    "unfinished": ("piece of unfinished work", "pieces of unfinished work"),
    "partial": ("half-written file", "half-written files"),
    "status": ("status of a killed run", "statuses of killed runs"),
}
"""One of a kind, and several."""


def plan_view(plan: Plan, root: Path) -> RenderableType:
    """A plan as a table with a line in bold; `root` is the store's directory."""
    table = make_table("stage", "state", ">last took", ">size", "~why")
    for stage in plan.stages:
        cost = duration(stage.last_seconds) if stage.last_seconds is not None else ""
        written = size(stage.last_bytes) if stage.last_bytes is not None else ""
        table.add_row(stage.name, state_text(stage.state), cost, written, Text(stage.reason))
    return Group(table, Text(_plan_line(plan, root), "bold"))


def _plan_line(plan: Plan, root: Path) -> str:
    counts = [f"{plan.count(state)} {state}" for state in STATES if plan.count(state)]
    line = f"{len(plan.stages)} stages: {', '.join(counts)}"
    if plan.seconds:
        line += f"; the work took {duration(plan.seconds)} last time, and wrote {size(plan.bytes)}"
    return f"{line}; outputs go to {root / 'stages'}" if plan.work else line


def summary_view(summary: RunSummary) -> RenderableType:
    """What each stage did, as a table with a line in bold."""
    table = make_table("stage", "state", ">time", "~output", "digest")
    for outcome in summary.outcomes.values():
        manifest = outcome.manifest
        digest = short_digest(manifest.digest) if manifest else ""
        output = Text(output_text(manifest)) if manifest else Text(outcome.error, "red")
        if outcome.drift:
            output.append(f"; {outcome.drift}", "yellow")
        table.add_row(outcome.name, state_text(outcome.state), duration(outcome.seconds), output, Text(digest, "dim"))
    states = [outcome.state for outcome in summary.outcomes.values()]
    cached, total = states.count("cached"), len(states)
    if cached == total:
        text = f"Every stage is cached: all {total} were in the store ({duration(summary.seconds)})."
    elif summary.ok:
        text = f"{total} stages done, {cached} of them cached, in {duration(summary.seconds)}."
    else:
        counts = [(state, states.count(state)) for state in ("done", "cached", "failed", "blocked", "interrupted")]
        ended = ", ".join(f"{number} {state}" for state, number in counts if number)
        text = f"{total} stages: {ended}, in {duration(summary.seconds)}."
    return Group(table, Text(text, "bold green" if summary.ok else "bold red"), Text(""))


def output_text(manifest: Manifest) -> str:
    """What a stage made: `12 rows: 9 ok, 2 quarantined, 1 filtered; 8 taken from earlier outputs; 1 prompt cut`."""
    text = _counts_text(manifest.counts) or manifest.kind
    if taken := sum(manifest.taken.values()):
        text += f"; {taken} taken from earlier outputs"
    if cut := int(manifest.metrics.get("prompts_cut", 0)):
        text += f"; {counted(cut, 'prompt')} cut"
    if clusters := int(manifest.metrics.get("clusters", 0)):
        across = int(manifest.metrics.get("clusters_across_sources", 0))
        text += f"; {counted(clusters, 'cluster')} of near-duplicates, {across} across sources"
    if groups := int(manifest.metrics.get("semantic_groups", 0)):
        text += f"; {counted(groups, 'group')} of semantic duplicates"
    return text


def _counts_text(counts: Mapping[str, int]) -> str:
    if "in" not in counts:
        return ", ".join(f"{value} {key}" for key, value in counts.items())
    parts = [f"{counts.get('ok', 0)} ok"]
    for kind in ("quarantined", "filtered"):
        number = sum(value for key, value in counts.items() if key.startswith(f"{kind}/"))
        if number:
            parts.append(f"{number} {kind}")
    return f"{counts['in']} rows: {', '.join(parts)}"


def collection_view(found: Collection, removed: bool) -> RenderableType:
    """What goes, what stays though no kept run needs it, and a line in bold.

    Args:
        found: the collection.
        removed: whether it is done, not only looked at.
    """
    runs = len(found.kept_runs) + len(found.dropped_runs)
    parts: list[RenderableType] = [Text(f"{len(found.kept_runs)} of {runs} runs are kept.", "dim")]
    if found.remove:
        parts.append(_items("removed" if removed else "to remove", found.remove))
    if found.left:
        parts.append(_items("left, though no kept run needs it", found.left))
    if not found.remove:
        return Group(*parts, Text("Nothing to remove.", "bold green"))
    what = f"{_count(found.remove)}, {size(found.bytes)}"
    line = Text(f"Removed {what}." if removed else f"{what} can go; --yes removes them.", "bold")
    return Group(*parts, line)


def _items(title: str, items: Iterable[Item]) -> Table:
    table = make_table("what", "~where", ">size", "~why", title=title)
    for item in items:
        table.add_row(item.what, item.path, size(item.bytes), Text(item.why, "dim"))
    return table


def _count(items: Iterable[Item]) -> str:
    """`3 outputs, 1 abandoned attempt`."""
    return ", ".join(counted(number, *_NOUNS[what]) for what, number in Counter(item.what for item in items).items())
