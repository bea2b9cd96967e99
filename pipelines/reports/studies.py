"""Studies of a recorded run, or of a folder: every arm with its cost, its time, its figures and what is significant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from lumina.evaluation.study import STUDY_FILE, TIMES_FILE, headline, pareto_front, read_study
from lumina.formats import counted, duration, figure, interval
from pipelines.compare.runs import Side
from pipelines.errors import StoreError
from pipelines.terminal import Text, in_line, make_table

_ARMS = 6
"""Columns that fit beside the names of figures."""


def read_studies(side: Side) -> dict[str, dict[str, Any]]:
    """The studies of a run, by name.

    Raises:
        StoreError: a file cannot be read.
    """
    found = {}
    for stage, held in side.stages.items():
        if stage.startswith("study@") and held.output is not None:
            folder = held.output.fetch(STUDY_FILE, TIMES_FILE)
            try:
                found[stage.partition("@")[2]] = read_study(folder)
            except (OSError, ValueError) as error:
                raise StoreError(f"{folder} cannot be read ({error}); `lumina verify` tells what is amiss") from error
    return found


def studies_view(studies: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """The tables of several studies."""
    return Group(*(study_view(content) for content in studies.values()))


def study_view(content: Mapping[str, Any]) -> RenderableType:
    """Arms by cost and by the figure that ranks them, then all figures side by side."""
    main, reference = headline(content), content["reference"]
    front = pareto_front(content, main)
    clips = counted(content["prompts"], "prompt") + f", {counted(content['samples'], 'clip')} each"
    title = f"Study {content['study']}: {clips}, system prompt {content['system_prompt']}"
    table = make_table("~arm", ">cost", ">a clip", f">{main}", f">− {reference}", "", title=title)
    for name in content["order"]:
        arm = content["arms"][name]
        gap = arm.get("difference", {}).get(main)
        seconds = arm["seconds_per_clip"]
        table.add_row(
            in_line(f"★ {name}" if name in front else name),
            f"{arm['cost']['relative']:.3f}",
            "–" if seconds is None else duration(seconds),
            _figure(arm["metrics"][main]),
            Text("reference", "dim") if gap is None else _figure(gap, sign=True),
            verdict(gap),
        )
    told = (
        "Cost: operations, as a share of the finest scale alone. ★ no other arm is as cheap and better. Intervals and "
        f"differences hold at {content['confidence']:.0%} for all arms at once, for each figure on its own."
    )
    order = content["order"]
    parts = [table, *(_every_figure(content, order[at : at + _ARMS]) for at in range(0, len(order), _ARMS))]
    return Group(*parts, Text(told, "dim"), Text(f"≠ differs from {reference}.", "dim"), Text(""))


def verdict(gap: Mapping[str, Any] | None) -> Text:
    """Whether a difference is more than chance."""
    if gap is None:
        return Text("")
    if not gap["significant"]:
        return Text("cannot be told apart", "dim")
    return Text("lower", "bold red") if gap["value"] < 0 else Text("higher", "bold green")


def _every_figure(content: Mapping[str, Any], arms: Sequence[str]) -> RenderableType:
    table = make_table("~figure", *(f">{name}" for name in arms))
    for name in content["figures"]:
        cells = []
        for arm in arms:
            one = content["arms"][arm]
            differs = one.get("difference", {}).get(name, {}).get("significant", False)
            cells.append(Text(figure(one["metrics"][name]["value"]) + (" ≠" if differs else "  ")))
        table.add_row(name, *cells)
    return table


def _figure(found: Mapping[str, Any], sign: bool = False) -> Text:
    if found["value"] is None:
        return Text("–", "dim")
    text = Text(figure(found["value"], sign))
    return text.append(f" {interval(found['low'], found['high'], sign)}".rstrip(), "dim")


def plain_study(content: Mapping[str, Any]) -> dict[str, Any]:
    """A study as plain data for `--json`, with its front."""
    copy: dict[str, Any] = json.loads(json.dumps(content))
    return {**copy, "front": list(pareto_front(content, headline(content)))}
