"""The stages of a recorded run for its page: what each took, and a drawing of what depends on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.diff.runs import Held, Side
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.reports.progress import duration, state_text
from pipelines.reports.tables import output_text

_WIDTH, _HEIGHT, _GAP, _BEND = 150, 46, 14, 26
_PAD = 4


@dataclass(frozen=True)
class StageRow:
    """One stage in the table of times."""

    name: str
    state: str
    sign: str
    took: str
    """In this run."""
    computed: str
    """When it was computed, maybe by an earlier run."""
    share: float
    """Of the longest stage's computing time, in percent."""
    machine: str
    """GPU-hours or core-hours that were held for it."""
    operations: str
    """Floating point operations of its training."""
    output: str
    size: str
    problem: str
    """What went wrong, why the output is not there any more, or which code differs since; else empty."""


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


def stage_rows(side: Side, record: RunRecord) -> tuple[list[StageRow], str]:
    """Every stage in order, and the sum of what they cost."""
    computed = {name: _computed(held, record.stages[name]) for name, held in side.stages.items()}
    longest = max((seconds for seconds in computed.values() if seconds), default=1.0)
    rows = []
    hours: dict[str, float] = {}
    for name, held in side.stages.items():
        entry = record.stages[name]
        unit, number = _machine(held)
        if number:
            hours[unit] = hours.get(unit, 0.0) + number
        manifest = held.manifest
        rows.append(
            StageRow(
                name,
                held.state,
                _sign(held.state),
                duration(entry.seconds),
                duration(seconds) if (seconds := computed[name]) is not None else "–",
                100 * (seconds or 0.0) / longest,
                _hours(number, unit) if number >= 5e-4 else "–",
                _operations(held),
                output_text(manifest) if manifest else "–",
                size_text(sum(file.bytes for file in manifest.files)) if manifest else "–",
                entry.error or held.problem or held.drift,
            )
        )
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
    if not {"train/flops_per_second", "train/seconds_per_step", "train/steps"} <= metrics.keys():
        return "–"
    number = metrics["train/flops_per_second"] * metrics["train/seconds_per_step"] * metrics["train/steps"]
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e9:.3g} G"


def size_text(number: float) -> str:
    """`1.2 GB`, `34 MB`, `560 kB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _sign(state: str) -> str:
    return state_text(state).plain.partition(" ")[0]


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
    layers: list[list[tuple[str, str]]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    # An edge over several layers keeps a place free in each, so that it runs past the boxes.
    above: dict[tuple[str, str], list[tuple[str, str]]] = {}
    chains: list[list[tuple[str, str]]] = []
    for name in side.stages:
        layers[depth[name]].append((name, ""))
        for parent in parents[name]:
            between = range(depth[parent] + 1, depth[name])
            free = [(parent, f"{name}{number}") for number in between]
            for number, place in zip(between, free, strict=True):
                layers[number].append(place)
            chain = [(parent, ""), *free, (name, "")]
            chains.append(chain)
            for upper, lower in pairwise(chain):
                above.setdefault(lower, []).append(upper)
    width = max((_extent(layer) for layer in layers), default=0.0)
    middle: dict[tuple[str, str], float] = {}
    for layer in layers:
        layer.sort(key=lambda one: _mean([middle[two] for two in above.get(one, ())]))
        x = (width - _extent(layer)) / 2
        for one in layer:
            own = _GAP if one[1] else _WIDTH
            middle[one] = x + own / 2
            x += own + _GAP
    pitch = _HEIGHT + _BEND
    nodes = tuple(
        Node(name, held.state, _note(held), _PAD + middle[name, ""] - _WIDTH / 2, _PAD + depth[name] * pitch)
        for name, held in side.stages.items()
    )
    edges = tuple(_path(chain, middle, depth[chain[0][0]] * pitch + _PAD, pitch) for chain in chains)
    return Graph(nodes, edges, width + 2 * _PAD, len(layers) * pitch - _BEND + 2 * _PAD)


def _reduced(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without the edges to what another parent reads already, itself or by others."""
    ancestors: dict[str, set[str]] = {}
    reduced = {}
    for name, own in parents.items():
        distinct = list(dict.fromkeys(own))
        beyond = set().union(*(ancestors[one] for one in distinct)) if distinct else set()
        reduced[name] = [one for one in distinct if one not in beyond]
        ancestors[name] = beyond | set(distinct)
    return reduced


def _extent(layer: Sequence[tuple[str, str]]) -> float:
    return sum(_GAP if one[1] else _WIDTH for one in layer) + _GAP * (len(layer) - 1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _path(chain: Sequence[tuple[str, str]], middle: Mapping[tuple[str, str], float], top: float, pitch: int) -> str:
    y = top + _HEIGHT
    text = f"M{_PAD + middle[chain[0]]:.1f} {y:.1f}"
    for number, place in enumerate(chain[1:], start=1):
        x, before = _PAD + middle[place], _PAD + middle[chain[number - 1]]
        text += f"C{before:.1f} {y + _BEND / 2:.1f} {x:.1f} {y + _BEND / 2:.1f} {x:.1f} {y + _BEND:.1f}"
        y += pitch
        if number < len(chain) - 1:
            text += f"V{y:.1f}"
    return text


def _note(held: Held) -> str:
    seconds = held.manifest.seconds if held.manifest else None
    return f"{state_text(held.state).plain}" + (f" · {duration(seconds)}" if seconds is not None else "")
