"""Evaluations of a recorded run: metrics with intervals of every system prompt and checkpoint, and the choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipelines.compare.rows import open_rows
from pipelines.compare.runs import Held, Side
from pipelines.engine.store.output import Output
from pipelines.errors import StoreError

if TYPE_CHECKING:
    from lumina.evaluation.summary import Results

Figure = Mapping[str, float | None]
"""`value`, `low`, `high`."""


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
        rows = [
            row for row in open_rows(self.stage, self.output).read().to_pylist() if self.model in ("", row["model"])
        ]
        return sorted(rows, key=lambda row: (row["prompt_id"], row["sample"]))

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

    @property
    def clips(self) -> int | None:
        """Clips behind the figures, if recorded."""
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
    selection: Mapping[str, Any] | None
    """Content of `selection.json`."""

    @property
    def chosen(self) -> list[str]:
        """System prompts for fine-tuning."""
        return list(self.selection["sources"]) if self.selection else []


def read_evaluations(side: Side) -> list[Evaluations]:
    """The evaluations of a run, those after the last training stage first.

    Raises:
        StoreError: a file cannot be read.
    """
    sources: dict[str, list[Evaluated]] = {"": []}
    for stage, held in side.stages.items():
        kind, _, variant = stage.partition("@")
        if kind == "evaluate" and held.output is not None:
            content = _read(held.output, "metrics.json")
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
    selection = _read(choose.output, "selection.json") if choose and choose.output else None
    order = [row["source"] for row in selection["table"]] if selection else []
    sources.sort(key=lambda one: (order.index(one.title) if one.title in order else len(order), one.title))
    final = []
    stage = f"evaluate_final{variant}"
    held = side.stages.get(stage)
    if held and held.output:
        content = _read(held.output, "metrics.json")
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
            "selection": each.selection,
        }
        for each in found
    )
    names = [each.where.rpartition("@")[2] for each in found[1:]]
    return last | ({"after": dict(zip(names, others, strict=True))} if others else {})


def _read(output: Output, name: str) -> dict[str, Any]:
    path = output.fetch(name) / name
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); `lumina verify` tells what else is amiss") from error
    return content


def _config(held: Held) -> Mapping[str, Any]:
    config: Mapping[str, Any] = (held.recipe or {}).get("config", {})
    return config
