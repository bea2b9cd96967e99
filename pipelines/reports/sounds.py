"""Evaluations of sounds: figures of every condition with intervals, and the comparison of two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from jobs.evaluate_sound import COMPARISON_FILE
from jobs.evaluate_sound import SCHEMA as SOUND_SCHEMA
from lumina.evaluation.selection import METRICS_FILE
from lumina.files import read_json
from pipelines.compare.runs import Held, Side
from pipelines.errors import StoreError
from pipelines.terminal import Text, make_table

SHOWN = {
    "onset_f1_50ms": "onset F1",
    "class_acc_all": "classes",
    "av_align_v2025_excess": "AV excess",
}
"""Figures of the tables and their heads; `lumina report` and `lumina compare --json` have all."""
_PAIRED = ("onset_f1_50ms", "class_acc_all")
"""Of them, those whose paired differences have a table: with signs, three do not fit."""
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


def ordered(conditions: Iterable[str]) -> list[str]:
    """Conditions as tables have them: what is best first, chance last."""
    return sorted(conditions, key=lambda one: (_ORDER.index(one) if one in _ORDER else len(_ORDER), one))


def sounds_view(sounds: Sounds) -> RenderableType:
    """Two tables of conditions for each checkpoint, and in a sentence what the comparison found."""
    parts: list[RenderableType] = []
    for content in sounds.evaluations.values():
        title = f"Sounds of {content['checkpoint']} on {content['clips']} held-out clips"
        parts += [_table(title, content["conditions"], SHOWN), _differences(content["given_minus"])]
    if sounds.comparison is not None:
        parts.append(Text(sounds.comparison["found"]))
    return Group(*parts)


def _differences(given_minus: Mapping[str, Any]) -> Table:
    return _table("What it takes away: given − the condition, clip by clip", given_minus, _PAIRED, sign=True)


def _table(title: str, conditions: Mapping[str, Any], shown: Iterable[str], sign: bool = False) -> Table:
    """Figures of each condition; two digits, so that all intervals fit into 80 columns."""
    names = list(shown)
    table = make_table("condition", *(f">{SHOWN[one]}" for one in names), title=title)
    for name in ordered(conditions):
        table.add_row(name, *(_figure(conditions[name].get(one), sign) for one in names))
    return table


def _figure(found: Mapping[str, float | None] | None, sign: bool) -> Text:
    if found is None or found.get("value") is None:
        return Text("–", "dim")
    value, low, high = (
        None if end is None else _rounded(end, sign) for end in map(found.get, ("value", "low", "high"))
    )
    text = Text(value or "")
    return text if low is None or high is None else text.append(f" [{low}, {high}]", "dim")


def _rounded(value: float, sign: bool) -> str:
    text = f"{value:{'+' if sign else ''}.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


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
