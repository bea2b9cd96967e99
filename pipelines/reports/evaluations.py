"""Evaluations of a recorded run: metrics with intervals of every system prompt and checkpoint, and the choice."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table

from jobs.evaluate_sound import SCHEMA as SOUND_SCHEMA
from lumina.evaluation.selection import METRICS_FILE, SELECTION_FILE, Figure, Selection
from lumina.files import read_json
from lumina.formats import figure, interval
from pipelines.compare.rows import open_rows
from pipelines.compare.runs import Held, Side
from pipelines.engine.store.output import Output
from pipelines.errors import StoreError
from pipelines.terminal import Text, make_table

if TYPE_CHECKING:
    from lumina.evaluation.metrics import Estimate
    from lumina.evaluation.summary import Results

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluated:
    """One checkpoint under one system prompt, on one half of the prompts."""

    title: str
    stage: str
    output: Output
    content: Mapping[str, Any]
    """Of `metrics.json`, shared by all that one stage evaluated."""
    figures: Mapping[str, Figure]
    """By metric."""
    config: Mapping[str, Any]
    """Of the stage's recipe."""
    model: str = ""
    """`before` or `after`, where one stage evaluated both."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Its clips by prompt. StoreError if they cannot be read."""
        rows = open_rows(self.stage, self.output).read().to_pylist()
        own = (row for row in rows if self.model in ("", row["model"]))
        return sorted(own, key=lambda row: (row["prompt_id"], row["sample"]))

    @cached_property
    def known(self) -> list[str]:
        """The metrics that were measured and whose values are in the rows, in the order of METRICS."""
        from lumina.evaluation.metrics import METRICS
        from lumina.evaluation.summary import columns_of

        have = set(self.rows[0]) if self.rows else set()
        return [name for name in METRICS if name in self.figures and have.issuperset(columns_of([name]))]

    @cached_property
    def results(self) -> Results:
        """The clips by prompt and noise, with the values of every metric that is known here.

        Raises:
            StoreError: a clip of a prompt is absent.
        """
        from lumina.evaluation.summary import pivot

        try:
            return pivot(self.rows, self.known, self.stage)
        except ValueError as error:
            raise StoreError(f"{self.output}/data: {error}") from error

    def draws(self, seed: int, resamples: int) -> tuple[object, dict[str, Estimate]]:
        """What must be alike for evaluations to be paired, and every figure that is known with its draws.

        Raises:
            StoreError: as `results`.
        """
        from lumina.evaluation.summary import estimates

        if self.content.get("suite") == "vbench":
            from lumina.vbench.clip_rows import read_clip_rows

            found = read_clip_rows(self.rows, self.figures)
            return (found.clips, found.strata), found.estimates(seed, resamples)
        results = self.results
        design = (results.prompt_ids, results.samples, results.strata)
        return design, estimates(results, self.known, seed, resamples)

    @property
    def clips(self) -> int | None:
        """Clips behind the figures, if recorded."""
        if "clips" in self.content:
            return int(self.content["clips"])
        return (
            self.content["prompts"] * self.content["samples"] if {"prompts", "samples"} <= set(self.content) else None
        )


@dataclass(frozen=True)
class Evaluations:
    """What was evaluated, chosen and fine-tuned after one training stage."""

    where: str
    """` after train@1`; empty after the last one."""
    sources: tuple[Evaluated, ...]
    """One per system prompt: the best first, then those that the choice left out."""
    final: tuple[Evaluated, ...]
    """The chosen system prompt before and after fine-tuning, on prompts of their own where there are any."""
    selection: Selection | None

    @property
    def chosen(self) -> tuple[str, ...]:
        """System prompts for fine-tuning."""
        return self.selection.sources if self.selection else ()


def read_evaluations(side: Side) -> list[Evaluations]:
    """The evaluations of a run, those after the last training stage first.

    Raises:
        StoreError: a file cannot be read.
    """
    sources: dict[str, list[Evaluated]] = {"": []}
    for stage, held in side.stages.items():
        kind, _, variant = stage.partition("@")
        if kind == "evaluate" and held.output is not None:
            content = _read(held.output, METRICS_FILE, _metrics)
            if content.get("schema") == SOUND_SCHEMA:
                continue  # shown by `pipelines.reports.sounds`
            # `evaluate@web` follows the last training stage, `evaluate@3.web` train@3.
            source = str(content.get("system_prompt", variant))
            after = variant.removesuffix(source).removesuffix(".")
            one = Evaluated(source, stage, held.output, content, content["metrics"], _config(held))
            sources.setdefault(after, []).append(one)
        elif kind == "choose":
            sources.setdefault(variant, [])
    return [_after(side, after, found) for after, found in sources.items()]


def _after(side: Side, after: str, sources: list[Evaluated]) -> Evaluations:
    variant = f"@{after}" if after else ""
    choose = side.stages.get(f"choose{variant}")
    selection = _read(choose.output, SELECTION_FILE, Selection.load) if choose and choose.output else None
    order = [row.source for row in selection.table] if selection else []
    sources.sort(key=lambda one: (order.index(one.title) if one.title in order else len(order), one.title))
    final = []
    stage = f"evaluate_final{variant}"
    held = side.stages.get(stage)
    if held and held.output:
        content = _read(held.output, METRICS_FILE, _metrics)
        for model in ("before", "after"):
            title = content.get("checkpoints", {}).get(model, model)
            title = "fine-tuned" if title == f"finetune{variant}" else title
            final.append(Evaluated(title, stage, held.output, content, content[model], _config(held), model))
    return Evaluations(f" after train@{after}" if after else "", tuple(sources), tuple(final), selection)


def as_dict(found: Sequence[Evaluations]) -> dict[str, Any]:
    """Plain data for `--json`."""
    last, *others = (
        {
            "sources": {one.title: dict(one.figures) for one in each.sources},
            "final": {one.title: dict(one.figures) for one in each.final},
            "selection": each.selection and each.selection.as_dict(),
        }
        for each in found
    )
    names = [each.where.rpartition("@")[2] for each in found[1:]]
    return last | ({"after": dict(zip(names, others, strict=True))} if others else {})


def _read(output: Output, name: str, load: Callable[[Path], T]) -> T:
    folder = output.fetch(name)
    try:
        return load(folder)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder / name} cannot be read ({error}); `lumina verify` tells what else is amiss"
        ) from error


def _metrics(folder: Path) -> Mapping[str, Any]:
    content: Mapping[str, Any] = read_json(folder / METRICS_FILE)
    return content


def _config(held: Held) -> Mapping[str, Any]:
    config: Mapping[str, Any] = (held.recipe or {}).get("config", {})
    return config


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
    table = make_table("~metric", title=title)
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


def _choice(selection: Selection) -> RenderableType:
    by_hand = " by hand" if selection.by_hand else ""
    text = Text(f"Chosen{by_hand}: ", "bold").append(", ".join(selection.sources), "bold green")
    return Group(*_below_best(selection), text, Text(textwrap.fill(selection.reason, 110), "dim"), Text(""))


def _below_best(selection: Selection) -> list[Table]:
    """How far every other source lies below the best, and whether that is more than chance."""
    gaps = [row for row in selection.table if row.below_best is not None]
    if not gaps:
        return []
    title = f"Score below {selection.table[0].source}, for all pairs at once"
    table = make_table("system prompt", ">below", "", title=title)
    for row in gaps:
        alike = "cannot be told apart" if selection.per_clip else "no error bars"
        verdict = Text(alike, "dim") if row.in_best_set else Text("significantly worse", "bold red")
        table.add_row(row.source, _figure(row.below_best), verdict)
    return [table]
