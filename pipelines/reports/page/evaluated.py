"""What the evaluations of a run left in the store: figures with intervals, and a row for every clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.evaluation.metrics import METRICS
from lumina.evaluation.summary import Results, columns_of, pivot
from pipelines.diff.rows import read_rows
from pipelines.diff.runs import Held, Side
from pipelines.engine.store.output import Output
from pipelines.errors import StoreError


@dataclass(frozen=True)
class Evaluated:
    """One checkpoint under one system prompt, on one half of the prompts."""

    title: str
    stage: str
    output: Output
    content: Mapping[str, Any]
    """Of `metrics.json`, shared by all that one stage evaluated."""
    figures: Mapping[str, Mapping[str, float | None]]
    """Metric -> `value`, `low`, `high`."""
    rows: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    """Of the stage's recipe."""

    def results(self) -> Results:
        """The clips by prompt and noise, with the values of every metric that is known here.

        Raises:
            StoreError: a clip of a prompt is absent.
        """
        try:
            return pivot(self.rows, self.known(), self.stage)
        except ValueError as error:
            raise StoreError(f"{self.output}/data: {error}") from error

    def known(self) -> list[str]:
        """The metrics that were measured and whose values are in the rows, in the order of METRICS."""
        have = set(self.rows[0]) if self.rows else set()
        return [name for name in METRICS if name in self.figures and have.issuperset(columns_of([name]))]


def read_sources(side: Side) -> dict[str, list[Evaluated]]:
    """The evaluations of the system prompts, in the order of the run, by training stage; the last one's is empty.

    Raises:
        StoreError: a file cannot be read.
    """
    found: dict[str, list[Evaluated]] = {}
    for name, held in side.stages.items():
        if name.partition("@")[0] == "evaluate" and held.output is not None:
            content = _read_json(held.output, "metrics.json")
            after, source = after_and_source(name, content)
            rows = _rows(name, held.output)
            one = Evaluated(source, name, held.output, content, content["metrics"], rows, _of(held))
            found.setdefault(after, []).append(one)
    return found


def after_and_source(stage: str, content: Mapping[str, Any]) -> tuple[str, str]:
    """What `evaluate@web` and `evaluate@3.web` evaluate, with the content of their `metrics.json`: ("3", "web")."""
    variant = stage.partition("@")[2]
    source = str(content.get("system_prompt", variant))
    return variant.removesuffix(source).removesuffix("."), source


def variant_of(after: str) -> str:
    """What stands behind the name of a stage that follows this training stage: `@3`; nothing after the last one."""
    return f"@{after}" if after else ""


def read_final(side: Side, after: str = "") -> list[Evaluated]:
    """The chosen system prompt before and after fine-tuning; empty if the run did not come that far.

    Raises:
        StoreError: a file cannot be read.
    """
    stage = f"evaluate_final{variant_of(after)}"
    held = side.stages.get(stage)
    if held is None or held.output is None:
        return []
    content = _read_json(held.output, "metrics.json")
    rows = _rows(stage, held.output)
    titles = {"before": f"before ({content.get('checkpoints', {}).get('before', '')})", "after": "fine-tuned"}
    return [
        Evaluated(
            titles[model],
            stage,
            held.output,
            content,
            content[model],
            [row for row in rows if row["model"] == model],
            _of(held),
        )
        for model in ("before", "after")
    ]


def read_selection(side: Side, after: str = "") -> Mapping[str, Any] | None:
    """Content of `selection.json`; None if nothing was chosen yet.

    Raises:
        StoreError: it cannot be read.
    """
    held = side.stages.get(f"choose{variant_of(after)}")
    return None if held is None or held.output is None else _read_json(held.output, "selection.json")


def _read_json(output: Output, name: str) -> dict[str, Any]:
    path = output.fetch(name) / name
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); `lumina verify` tells what else is amiss") from error
    return content


def _rows(stage: str, output: Output) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_rows(stage, output).to_pylist()
    return sorted(rows, key=lambda row: (row["model"], row["prompt_id"], row["sample"]))


def _of(held: Held) -> Mapping[str, Any]:
    config: Mapping[str, Any] = (held.recipe or {}).get("config", {})
    return config
