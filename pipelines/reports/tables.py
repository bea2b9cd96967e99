"""Tables at the end of a run: what each stage did, how the system prompts compare, what was chosen."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from pipelines.engine.events import RunSummary
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.reports.page.evaluated import after_and_source, variant_of
from pipelines.reports.progress import duration, state_text
from pipelines.terminal import Text

_METRICS, _SELECTION = "metrics.json", "selection.json"


@dataclass(frozen=True)
class Column:
    """One evaluated model and system prompt."""

    title: str
    figures: Mapping[str, Mapping[str, float | None]]
    """Metric -> `value`, `low`, `high`."""
    clips: int | None
    """Clips behind the figures, if recorded."""
    chosen: bool = False


@dataclass(frozen=True)
class Comparison:
    """What a run's evaluations say."""

    sources: tuple[Column, ...]
    """One per system prompt, before the choice."""
    final: tuple[Column, ...]
    """The chosen source before and after fine-tuning, on prompts of their own where there are any."""
    selection: Mapping[str, Any] | None
    """Content of `selection.json`."""
    after: Mapping[str, Comparison] = field(default_factory=dict)
    """The same after training stages that are not the last, by their names."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        plain = {
            "sources": {column.title: dict(column.figures) for column in self.sources},
            "final": {column.title: dict(column.figures) for column in self.final},
            "selection": self.selection,
        }
        return plain | ({"after": {name: one.as_dict() for name, one in self.after.items()}} if self.after else {})


def read_comparison(store: Store, record: RunRecord) -> Comparison:
    """Collect the figures of a recorded run.

    Args:
        store: where the outputs are.
        record: content of `runs/<run id>.json`.
    """
    store.fetch_run(record, ("evaluate", "choose", "evaluate_final"), lambda path: path in (_METRICS, _SELECTION))
    paths = {name: store.root / entry.path for name, entry in record.stages.items() if entry.path is not None}
    evaluated: dict[str, dict[str, dict[str, Any]]] = {"": {}}
    for name, path in paths.items():
        kind, _, variant = name.partition("@")
        if kind == "evaluate" and (content := _read(path, _METRICS)) is not None:
            after, source = after_and_source(name, content)
            evaluated.setdefault(after, {})[source] = content
        elif kind == "choose":
            evaluated.setdefault(variant, {})
    found = {after: _compared(paths, after, contents) for after, contents in evaluated.items()}
    return replace(found.pop(""), after=found)


def _compared(paths: Mapping[str, Path], after: str, evaluated: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """What was evaluated, chosen and fine-tuned after one training stage; that of the last is empty."""
    variant = variant_of(after)
    selection = _read(paths.get(f"choose{variant}"), _SELECTION)
    chosen = set(selection["sources"]) if selection else set()
    sources = [
        Column(source, content.get("metrics", content), _clips(content), source in chosen)
        for source, content in evaluated.items()
    ]
    final = []
    content = _read(paths.get(f"evaluate_final{variant}"), _METRICS)
    if content is not None:
        checkpoints = content.get("checkpoints", {})
        for side in ("before", "after"):
            title = checkpoints.get(side, side)
            title = "fine-tuned" if title == f"finetune{variant}" else title
            final.append(Column(title, content[side], _clips(content), chosen=side == "after"))
    return Comparison(tuple(sources), tuple(final), selection)


def _read(path: Path | None, name: str) -> dict[str, Any] | None:
    if path is None or not (path / name).is_file():
        return None
    content: dict[str, Any] = json.loads((path / name).read_text())
    return content


def _clips(content: Mapping[str, Any]) -> int | None:
    if "prompts" in content and "samples" in content:
        return int(content["prompts"]) * int(content["samples"])
    return None


def comparison_view(comparison: Comparison) -> RenderableType:
    """The system prompts side by side, the choice with its reason, then the fine-tuned model."""
    every = {**comparison.after, "": comparison}
    parts = [part for after, one in every.items() for part in _parts(one, f" after train@{after}" if after else "")]
    return Group(*(parts or [Text("This run has no evaluation yet.", "dim")]))


def _parts(comparison: Comparison, where: str) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if comparison.sources:
        parts.append(_figures(f"System prompts{where}", comparison.sources))
    if comparison.selection:
        parts.append(_choice(comparison.selection))
    if comparison.final:
        chosen = ", ".join((comparison.selection or {}).get("sources", ["the chosen sources"]))
        parts.append(_figures(f"Fine-tuned{where} on {chosen}", comparison.final))
    return parts


def _figures(title: str, columns: tuple[Column, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for column in columns:
        head = Text(f"★ {column.title}" if column.chosen else column.title, "bold green" if column.chosen else "bold")
        table.add_column(head, justify="right", no_wrap=True)
    metrics = list(dict.fromkeys(name for column in columns for name in column.figures))
    for metric in metrics:
        table.add_row(metric, *(_figure(column.figures.get(metric)) for column in columns))
    if any(column.clips for column in columns):
        table.add_section()
        table.add_row(Text("clips", "dim"), *(Text(str(column.clips or ""), "dim") for column in columns))
    return table


def _figure(figure: Mapping[str, float | None] | None) -> Text:
    if not isinstance(figure, Mapping) or figure.get("value") is None:
        return Text("–", "dim")
    text = Text(_number(figure["value"]))
    low, high = figure.get("low"), figure.get("high")
    if low is not None and high is not None:
        text.append(f"  [{_number(low)}, {_number(high)}]", "dim")
    return text


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


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
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
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
