"""Figures of sounds on the run page: the ablation table, paired differences, and one checkpoint against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.evaluation.selection import Figure
from lumina.formats import figure, interval
from lumina.pages.charts import Forest, Interval
from lumina.pages.page import Cell
from pipelines.reports.sounds import SHOWN, Sounds, ordered

MAIN = "onset_f1_50ms"


@dataclass(frozen=True)
class Conditions:
    """One checkpoint under every condition."""

    checkpoint: str
    clips: int
    confidence: str
    """In percent."""
    columns: tuple[str, ...]
    figures: list[list[Cell]]
    others: tuple[str, ...]
    """Conditions beside `given`."""
    differences: list[list[Cell]]
    f1: Forest
    gaps: Forest


@dataclass(frozen=True)
class Comparison:
    """The last checkpoint beside the first."""

    before: str
    after: str
    clips: int
    found: str
    rows: list[list[Cell]]


def conditions(content: Mapping[str, Any]) -> Conditions:
    """Tables of a `metrics.json`."""
    measured, minus, meaning = content["conditions"], content["given_minus"], content.get("meaning", {})
    names, others = ordered(measured), ordered(minus)
    return Conditions(
        str(content["checkpoint"]),
        int(content["clips"]),
        f"{100 * content['confidence']:.0f}",
        tuple(names),
        _rows([measured[name] for name in names], meaning),
        tuple(others),
        _rows([minus[name] for name in others], {}, sign=True),
        _forest({name: measured[name] for name in names}),
        _forest({name: minus[name] for name in others}, gaps=True),
    )


def comparison(sounds: Sounds) -> Comparison | None:
    """Table of a `comparison.json`; None where nothing was compared."""
    content = sounds.comparison
    if content is None:
        return None
    meaning, figures = content.get("meaning", {}), content["figures"]
    rows = [
        [
            Cell(name, str(meaning.get(name, ""))),
            _cell(figures[name]["before"]),
            _cell(figures[name]["after"]),
            _cell(figures[name]["difference"], sign=True),
        ]
        for name in [*(one for one in SHOWN if one in figures), *sorted(set(figures) - set(SHOWN))]
    ]
    before, after = (str(content[side]["checkpoint"]) for side in ("before", "after"))
    return Comparison(before, after, int(content["clips"]), str(content["found"]), rows)


def headline(sounds: Sounds) -> str:
    """What the last checkpoint reaches, beside shuffled sync."""
    if not sounds.evaluations:
        return "No sound has been evaluated yet"
    content = list(sounds.evaluations.values())[-1]
    given = content["conditions"]["given"].get(MAIN)
    if given is None:
        return f"Sounds of {content['checkpoint']}, of clips whose events nobody knows"
    bounds = interval(given["low"], given["high"])
    told = f"{content['checkpoint']} has onset F1 {figure(given['value'])} {bounds}".rstrip()
    shuffled = content["conditions"].get("sync_shuffled", {}).get(MAIN)
    if not shuffled or not shuffled["value"]:
        return told
    times = f"{given['value'] / shuffled['value']:.1f} times"
    return f"{told}, {times} that of shuffled sync ({figure(shuffled['value'])})"


def _rows(columns: Sequence[Mapping[str, Figure]], meaning: Mapping[str, str], sign: bool = False) -> list[list[Cell]]:
    order = [*SHOWN, *meaning, *(name for column in columns for name in column)]
    names = [name for name in dict.fromkeys(order) if any(name in column for column in columns)]
    return [[Cell(name, meaning.get(name, "")), *(_cell(one.get(name), sign) for one in columns)] for name in names]


def _cell(found: Figure | None, sign: bool = False) -> Cell:
    found = found or {}
    value, low, high = (found.get(end) for end in ("value", "low", "high"))
    differs = sign and low is not None and high is not None and (low > 0 or high < 0)
    return Cell(figure(value, sign), interval(low, high, sign), "differs" if differs else "")


def _forest(found: Mapping[str, Mapping[str, Figure]], gaps: bool = False) -> Forest:
    rows = []
    for name, measured in found.items():
        one = measured.get(MAIN)
        if one is not None:
            rows.append(Interval(name, one["value"], one["low"], one["high"]))
    return Forest(rows, gaps)
