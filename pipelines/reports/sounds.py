"""Evaluations of sounds: figures of every condition with intervals, and the comparison of two checkpoints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from jobs.evaluate_sound import COMPARISON_FILE
from jobs.evaluate_sound import SCHEMA as SOUND_SCHEMA
from lumina.evaluation.selection import METRICS_FILE
from lumina.files import read_json
from lumina.formats import figure, interval
from pipelines.compare.runs import Held, Side
from pipelines.errors import StoreError
from pipelines.terminal import Text, make_table

_SHOWN = {
    "onset_f1_50ms": "onset F1",
    "class_acc_all": "classes",
    "av_align_v2025_excess": "AV excess",
}
"""Figures of the table and their heads; `lumina compare --json` has all."""
_MAIN = "onset_f1_50ms"
_ORDER = ("truth", "codec", "given", "sync_shuffled", "visual_shuffled", "text_dropped", "nothing")


@dataclass(frozen=True)
class Sounds:
    """What was measured of the sounds of a run."""

    evaluations: Mapping[str, Mapping[str, Any]]
    """Stage -> its metrics.json."""
    comparison: Mapping[str, Any] | None
    """comparison.json, of the last checkpoint against the first."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"sounds": dict(self.evaluations), "comparison": self.comparison}


def read_sounds(side: Side) -> Sounds:
    """The evaluations of sounds of a run; none of a text-to-video run.

    Raises:
        StoreError: a file cannot be read.
    """
    found = {}
    for stage, held in side.stages.items():
        if stage.startswith("evaluate@") and held.output is not None:
            content = _read(held, METRICS_FILE)
            if content.get("schema") == SOUND_SCHEMA:
                found[stage] = content
    compared = side.stages.get("compare")
    comparison = _read(compared, COMPARISON_FILE) if found and compared and compared.output else None
    return Sounds(found, comparison)


def sounds_view(sounds: Sounds) -> RenderableType:
    """A table of conditions for each checkpoint, and in a sentence what the comparison found."""
    parts: list[RenderableType] = [_table(content) for content in sounds.evaluations.values()]
    if sounds.comparison is not None:
        parts.append(Text(textwrap.fill(sounds.comparison["found"], 110)))
    return Group(*parts)


def _table(content: Mapping[str, Any]) -> Table:
    title = f"Sounds of {content['checkpoint']} on {content['clips']} held-out clips"
    table = make_table("condition", *(f">{head}" for head in _SHOWN.values()), ">F1 of given − it", title=title)
    conditions = content["conditions"]
    for name in sorted(conditions, key=lambda one: _ORDER.index(one) if one in _ORDER else len(_ORDER)):
        minus = content["given_minus"].get(name, {}).get(_MAIN)
        table.add_row(name, *(_figure(conditions[name].get(one)) for one in _SHOWN), _figure(minus))
    return table


def _figure(found: Mapping[str, float | None] | None) -> Text:
    if found is None or found.get("value") is None:
        return Text("–", "dim")
    text = Text(figure(found["value"]))
    return text.append(f" {interval(found.get('low'), found.get('high'))}".rstrip(), "dim")


def _read(held: Held, name: str) -> Mapping[str, Any]:
    if held.output is None:
        raise AssertionError("only outputs that are there are read")
    folder: Path = held.output.fetch(name)
    try:
        content: Mapping[str, Any] = read_json(folder / name)
        return content
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder / name} cannot be read ({error}); `lumina verify` tells what else is amiss"
        ) from error
