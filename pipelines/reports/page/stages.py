"""Stages of a recorded run for its page: a table of what each took, and a layered drawing of the DAG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from lumina.formats import duration, quantity, size
from lumina.pages.page import Cell
from pipelines.diff.runs import Held, Side
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.reports.progress import state_text
from pipelines.reports.tables import output_text

COLUMNS = ("stage", "state", "in this run", "computing", "of the longest", "held", "operations", "size", "output")
_WIDTH, _HEIGHT, _GAP, _BEND, _PAD = 150, 46, 14, 26, 4
_Place = tuple[str, str]
"""A stage, and the one below for which an edge of it keeps a place free; that is empty for the stage itself."""


@dataclass(frozen=True)
class Node:
    """A box of the drawing; `x` and `y` are its upper left corner."""

    name: str
    state: str
    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Graph:
    """What depends on what, from the top down; pixels."""

    nodes: tuple[Node, ...]
    edges: tuple[str, ...]
    """SVG paths."""
    width: float
    height: float
    box: tuple[int, int] = (_WIDTH, _HEIGHT)


def stage_rows(side: Side, record: RunRecord) -> tuple[list[list[str | Cell]], str]:
    """The stages in order, with what went wrong or which code differs under each, and the sum of what they cost."""
    computed = {name: _computed(held, record.stages[name]) for name, held in side.stages.items()}
    longest = max((seconds for seconds in computed.values() if seconds), default=1.0)
    rows: list[list[str | Cell]] = []
    hours: dict[str, float] = {}
    for name, held in side.stages.items():
        entry, manifest, seconds = record.stages[name], held.manifest, computed[name]
        unit, number = _machine(held)
        if number:
            hours[unit] = hours.get(unit, 0.0) + number
        rows.append(
            [
                name,
                Cell(state_text(held.state).plain, style=f"state {held.state}"),
                duration(entry.seconds),
                "–" if seconds is None else duration(seconds),
                Cell("", bar=100 * (seconds or 0.0) / longest, style="share"),
                _hours(number, unit) if number >= 5e-4 else "–",
                _operations(held),
                size(sum(file.bytes for file in manifest.files)) if manifest else "–",
                output_text(manifest) if manifest else "–",
            ]
        )
        if problem := entry.error or held.problem:
            rows.append([Cell(problem, style="bad")])
        elif held.drift:
            rows.append([Cell(held.drift, style="warn")])
    total = duration(sum(seconds for seconds in computed.values() if seconds))
    spent = ", ".join(_hours(number, unit) for unit, number in sorted(hours.items(), reverse=True))
    return rows, f"{total} of computing in all" + (f", {spent}" if spent else "")


def _computed(held: Held, entry: StageEntry) -> float | None:
    if held.manifest is not None:
        return held.manifest.seconds
    return entry.seconds if held.state in ("done", "failed") and entry.seconds else None


def _machine(held: Held) -> tuple[str, float]:
    """GPUs where it was told to use them: one for every training worker. Else the cores of the machine."""
    if held.manifest is None:
        return "", 0.0
    runtime, hours = held.manifest.runtime, held.manifest.seconds / 3600
    if runtime.get("use_gpu"):
        training = held.manifest.kind == "checkpoint" and "latents" in " ".join(held.manifest.recipe.get("inputs", {}))
        return "GPU-hours", hours * (int(runtime.get("train_workers") or 1) if training else 1)
    return "core-hours", hours * int(held.manifest.env.get("cpus") or 1)


def _hours(number: float, unit: str) -> str:
    return f"{number:.3f} {unit}" if number < 1 else f"{number:,.1f} {unit}"


def _operations(held: Held) -> str:
    metrics = held.manifest.metrics if held.manifest else {}
    factors = [metrics.get(f"train/{name}") for name in ("flops_per_second", "seconds_per_step", "steps")]
    rate, pace, steps = (factor or 0.0 for factor in factors)
    return quantity(rate * pace * steps) if all(factors) else "–"


def draw(side: Side, inputs: Mapping[str, Sequence[str]]) -> Graph:
    """Lay the stages out in layers, each below all that it reads.

    Args:
        side: the run.
        inputs: stage -> the stages that it reads. Edges that others imply are not drawn.
    """
    parents = _reduced({name: [one for one in inputs.get(name, ()) if one in side.stages] for name in side.stages})
    depth: dict[str, int] = {}
    for name in side.stages:
        depth[name] = 1 + max((depth[one] for one in parents[name]), default=-1)
    layers: list[list[_Place]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    above: dict[_Place, list[_Place]] = {}
    chains: list[list[_Place]] = []
    for name in side.stages:
        layers[depth[name]].append((name, ""))
        for parent in parents[name]:
            # An edge over several layers keeps a place free in each, so that it runs past the boxes.
            between = range(depth[parent] + 1, depth[name])
            free = [(parent, f"{name}{number}") for number in between]
            for number, place in zip(between, free, strict=True):
                layers[number].append(place)
            chains.append([(parent, ""), *free, (name, "")])
            for upper, lower in pairwise(chains[-1]):
                above.setdefault(lower, []).append(upper)
    width = max((_extent(layer) for layer in layers), default=0.0)
    middle: dict[_Place, float] = {}
    for layer in layers:
        layer.sort(key=lambda one: fmean([middle[two] for two in above.get(one, ())] or [0.0]))
        x = _PAD + (width - _extent(layer)) / 2
        for one in layer:
            own = _GAP if one[1] else _WIDTH
            middle[one] = x + own / 2
            x += own + _GAP
    pitch = _HEIGHT + _BEND
    nodes = tuple(
        Node(name, held.state, _note(held), middle[name, ""] - _WIDTH / 2, _PAD + depth[name] * pitch)
        for name, held in side.stages.items()
    )
    edges = tuple(_path([middle[one] for one in chain], _PAD + depth[chain[0][0]] * pitch) for chain in chains)
    return Graph(nodes, edges, width + 2 * _PAD, len(layers) * pitch - _BEND + 2 * _PAD)


def _reduced(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without the edges to what another parent reads already, itself or by others."""
    ancestors: dict[str, set[str]] = {}
    reduced = {}
    for name, own in parents.items():
        beyond = set().union(*(ancestors[one] for one in own))
        reduced[name] = [one for one in dict.fromkeys(own) if one not in beyond]
        ancestors[name] = beyond | set(own)
    return reduced


def _extent(layer: Sequence[_Place]) -> float:
    return sum(_GAP if one[1] else _WIDTH for one in layer) + _GAP * (len(layer) - 1)


def _path(xs: Sequence[float], top: float) -> str:
    """An edge through these places of consecutive layers, straight beside the boxes and bent between them."""
    y = top + _HEIGHT
    text = f"M{xs[0]:.1f} {y:.1f}"
    for before, x in pairwise(xs):
        bend, end = y + _BEND / 2, y + _BEND
        text += f"V{y:.1f}C{before:.1f} {bend:.1f} {x:.1f} {bend:.1f} {x:.1f} {end:.1f}"
        y = end + _HEIGHT
    return text


def _note(held: Held) -> str:
    seconds = held.manifest.seconds if held.manifest else None
    return f"{state_text(held.state).plain}" + (f" · {duration(seconds)}" if seconds is not None else "")
