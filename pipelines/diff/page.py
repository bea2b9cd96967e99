"""`lumina diff --html`: what differs between two runs on one self-contained page, with curves and clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.diff.difference import Difference
from pipelines.diff.figures import CURVES, CurveDiff, read_curve
from pipelines.diff.rows import RowChange, RowsDiff, most_moved, read_rows, row_keys
from pipelines.diff.runs import Held, StageDiff
from pipelines.diff.view import (
    change_text,
    curve_cells,
    evaluations,
    figure_cells,
    grouped,
    only_text,
    rows_text,
    shown_curves,
)
from pipelines.engine.recipe_diff import by_inputs_alone
from pipelines.reports.html import MEDIA_BYTES, data_uri, fill, thinned
from pipelines.reports.progress import duration

TEMPLATE = Path(__file__).with_name("diff.html.j2")
_CLIPS = 24
_CHARTS = 12
_WIDTH, _HEIGHT = 600.0, 150.0
_NAMED = 10
_FIGURES = 4


@dataclass(frozen=True)
class _Clip:
    """One clip of both runs."""

    key: str
    prompt: str
    media: tuple[str, str]
    """`data:` URIs, or why there is none."""
    same: bool
    """Whether the frames are the same."""
    figures: str
    """What moved in it."""


@dataclass(frozen=True)
class _Clips:
    stage: str
    shown: tuple[_Clip, ...]
    total: int
    same: int
    """Clips of all with the same frames."""


@dataclass(frozen=True)
class _Chart:
    curve: CurveDiff
    lines: tuple[str, str]
    """Points of both curves for an SVG `polyline`, in a box of `_WIDTH` x `_HEIGHT`."""
    low: float
    high: float
    first: int
    last: int


def make_page(found: Difference) -> str:
    """Fill the template.

    Raises:
        StoreError: curves or rows of an output cannot be read.
    """
    moved = {
        title: [(figure, figure_cells(figure)) for figure in group if figure.moved]
        for title, group in evaluations(found.figures).items()
    }
    return fill(
        TEMPLATE,
        found=found,
        stages=[stage for stage in found.stages if not stage.shared or stage.verdict != "equal"],
        shared=[stage.name for stage in found.stages if stage.shared and stage.verdict == "equal"],
        recipes=[(group, _own(group[0])) for group in grouped(found.stages).values()],
        follow=[stage.name for stage in found.stages if stage.changes and by_inputs_alone(stage.changes)],
        rows=[(rows, rows_text(rows), _named(rows)) for rows in found.rows],
        charts=list(_charts(found)),
        curves=[(curve, curve_cells(curve)) for curve in shown_curves(found.curves)],
        evaluations={title: group for title, group in moved.items() if group},
        still=[title for title, group in moved.items() if not group],
        clips=_clips(found),
        duration=duration,
        only_text=only_text,
        box=(_WIDTH, _HEIGHT),
    )


def _own(stage: StageDiff) -> tuple[list[str], list[str]]:
    """Settings and modules in which the recipes of a stage differ."""
    own = [change for change in stage.changes if not by_inputs_alone((change,))]
    return (
        [str(change) for change in own if change.part != "code"],
        [str(change).removeprefix("code ") for change in own if change.part == "code"],
    )


def _named(rows: RowsDiff) -> list[str]:
    chosen = rows.changes[:_NAMED] if rows.transitions else most_moved(rows, _NAMED)
    return [_arrows(change_text(change, _FIGURES)) for change in chosen]


def _arrows(text: str) -> str:
    # A browser breaks a line inside `->`.
    return text.replace(" -> ", " → ")


def _charts(found: Difference) -> Iterator[_Chart]:
    differing = [curve for curve in shown_curves(found.curves) if curve.first_step is not None]
    for curve in differing[:_CHARTS]:
        outputs = [side.stages[curve.stage].output for side in (found.a, found.b)]
        series = [
            {
                step: point[curve.metric]
                for step, point in read_curve(curve.stage, output.fetch(CURVES)).items()
                if curve.metric in point
            }
            for output in outputs
            if output is not None
        ]
        values = [value for line in series for value in line.values() if abs(value) < float("inf")]
        if not values:
            continue
        low, high = min(values), max(values)
        first, last = min(min(line) for line in series), max(max(line) for line in series)
        box = (first, last, low, high)
        yield _Chart(curve, (_line(series[0], box), _line(series[1], box)), low, high, first, last)


def _line(series: dict[int, float], box: tuple[int, int, float, float]) -> str:
    first, last, low, high = box
    width, height = max(last - first, 1), (high - low) or 1.0
    return " ".join(
        f"{_WIDTH * (step - first) / width:.1f},{_HEIGHT * (high - value) / height:.1f}"
        for step, value in thinned(series)
    )


def _clips(found: Difference) -> _Clips | None:
    """Clips of the last evaluation that both have, those whose figures moved most first."""
    for stage in reversed(found.stages):
        a, b = (side.stages.get(stage.name) for side in (found.a, found.b))
        if a and b and _has_clips(a) and _has_clips(b):
            rows = next((one for one in found.rows if one.stage == stage.name), None)
            return _clips_of(stage.name, a, b, most_moved(rows, len(rows.changes)) if rows else [])
    return None


def _has_clips(held: Held) -> bool:
    manifest = held.manifest
    return manifest is not None and manifest.kind == "rows" and any(_is_clip(one.path) for one in manifest.files)


def _is_clip(path: str) -> bool:
    return path.startswith("videos/")


def _clips_of(stage: str, a: Held, b: Held, moved: Sequence[RowChange]) -> _Clips | None:
    if a.output is None or b.output is None:
        return None
    outputs = [a.output, b.output]
    tables = [read_rows(stage, output) for output in outputs]
    if not all({"video", "prompt", "frames_sha256"} <= set(table.column_names) for table in tables):
        return None
    keys = row_keys(stage, tables, outputs)
    columns = ["video", "prompt", "frames_sha256"]
    first, second = (
        dict(zip(key.to_pylist(), table.select(columns).to_pylist(), strict=True))
        for key, table in zip(keys, tables, strict=True)
    )
    common = sorted(first.keys() & second.keys())
    same = {key for key in common if first[key]["frames_sha256"] == second[key]["frames_sha256"]}
    figures = {change.key: _arrows(change_text(change, _FIGURES).partition(": ")[2]) for change in moved}
    order = [key for key in dict.fromkeys([*figures, *common]) if key in first and key in second]
    shown, spent = [], 0
    # Where nothing differs a few clips are enough to see that.
    for key in order[: _CLIPS if len(same) < len(common) else 4]:
        names = [str(table[key]["video"]) for table in (first, second)]
        files = [output.find(name) for output, name in zip(outputs, names, strict=True)]
        size = sum(file.stat().st_size for file in files if file.is_file())
        if spent + size > MEDIA_BYTES:
            break
        spent += size
        before, after = (
            data_uri(file, f"{output}/{name}") for file, output, name in zip(files, outputs, names, strict=True)
        )
        shown.append(_Clip(key, first[key]["prompt"], (before, after), key in same, figures.get(key, "")))
    return _Clips(stage, tuple(shown), len(common), len(same))
