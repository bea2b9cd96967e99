"""`lumina diff --html`: two runs compared on one self-contained page, with curves and clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumina.formats import duration, short_digest
from lumina.pages.charts import Axis, Chart, Line, thinned
from lumina.pages.page import MEDIA_BYTES, Cell, ClipRow, render
from pipelines.diff.difference import Difference
from pipelines.diff.figures import CURVES, read_curve
from pipelines.diff.rows import RowChange, RowsDiff, most_moved, read_rows, row_keys
from pipelines.diff.runs import Held, Side, StageDiff
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
from pipelines.reports.page.clips import ClipFile, fitting_rows
from pipelines.terminal import clean

TEMPLATE = Path(__file__).with_name("diff.html.j2")
_CLIPS = 24
_CHARTS = 12
_NAMED = 10
_FIGURES = 4


@dataclass(frozen=True)
class _Clips:
    stage: str
    shown: tuple[ClipRow, ...]
    total: int
    same: int
    """Clips of all with the same frames."""


def make_page(found: Difference) -> str:
    """Fill the template.

    Raises:
        StoreError: curves or rows of an output cannot be read.
    """
    moved = {title: [figure for figure in group if figure.moved] for title, group in evaluations(found.figures).items()}
    figures: list[list[str | Cell]] = []
    for title, group in moved.items():
        figures += [[title]] if group else []
        figures += [[f.metric, *figure_cells(f), Cell("yes" if f.outside else "", style="bad")] for f in group]
    alike = [stage for stage in found.stages if stage.shared and stage.verdict == "equal"]
    return render(
        TEMPLATE,
        clean,
        plays=True,
        found=found,
        style={0: "done", 3: "waiting"}.get(found.exit_code, "failed"),
        sides=[("A", _side(found.a)), ("B", _side(found.b))],
        stages=[_stage(stage, stage == found.first) for stage in found.stages if stage not in alike],
        shared=[stage.name for stage in alike],
        recipes=[([stage.name for stage in group], *_own(group[0])) for group in grouped(found.stages).values()],
        follow=[stage.name for stage in found.stages if stage.changes and by_inputs_alone(stage.changes)],
        rows=[(rows, rows_text(rows), _named(rows)) for rows in found.rows],
        charts=list(_charts(found)),
        curves_=[[curve.stage, curve.metric, *curve_cells(curve)] for curve in shown_curves(found.curves)],
        figures=figures,
        still=[title for title, group in moved.items() if not group],
        sheet=_clips(found),
        only_text=only_text,
    )


def _side(side: Side) -> tuple[str, str]:
    return side.run, f"{side.name}, {side.started}, {duration(side.seconds)}, in {side.store}"


def _stage(stage: StageDiff, first: bool) -> list[str | Cell]:
    styles = {"equal": "good", "same content": "good", "follows": ""}
    digests = (short_digest(digest) if digest else "–" for digest in stage.digests)
    took = ("–" if seconds is None else duration(seconds) for seconds in stage.seconds)
    verdict = Cell(stage.verdict, style=styles.get(stage.verdict, "bad"))
    return [f"▶ {stage.name}" if first else stage.name, verdict, *digests, *took]


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


def _charts(found: Difference) -> Iterator[Chart]:
    differing = [curve for curve in shown_curves(found.curves) if curve.first_step is not None]
    for curve in differing[:_CHARTS]:
        lines = []
        for color, (letter, side) in enumerate((("A", found.a), ("B", found.b))):
            output = side.stages[curve.stage].output
            points = read_curve(curve.stage, output.fetch(CURVES)) if output else {}
            series = {step: point[curve.metric] for step, point in points.items() if curve.metric in point}
            lines.append(Line(letter, 5 * color, thinned(series), dashed=letter == "B"))
        steps, values = ([point[k] for line in lines for point in line.points] for k in (0, 1))
        if values:
            margin = 0.03 * (max(values) - min(values)) or 0.05 * math.fabs(max(values)) or 1
            y = Axis(min(values) - margin, max(values) + margin)
            x = Axis(min(steps), max(max(steps), min(steps) + 1), "step")
            label = f"{curve.metric} of {curve.stage} over steps, both runs"
            yield Chart(f"{curve.stage} {curve.metric}", label, x, y, lines)


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
    return (
        manifest is not None and manifest.kind == "rows" and any(f.path.startswith("videos/") for f in manifest.files)
    )


def _clips_of(stage: str, a: Held, b: Held, moved: Sequence[RowChange]) -> _Clips | None:
    if a.output is None or b.output is None:
        return None
    outputs = [a.output, b.output]
    tables = [read_rows(stage, output) for output in outputs]
    columns = ["video", "prompt", "frames_sha256"]
    if not all(set(columns) <= set(table.column_names) for table in tables):
        return None
    keys = row_keys(stage, tables, outputs)
    first, second = (
        dict(zip(key.to_pylist(), table.select(columns).to_pylist(), strict=True))
        for key, table in zip(keys, tables, strict=True)
    )
    common = sorted(first.keys() & second.keys())
    same = {key for key in common if first[key]["frames_sha256"] == second[key]["frames_sha256"]}
    figures = {change.key: _arrows(change_text(change, _FIGURES).partition(": ")[2]) for change in moved}
    order = [key for key in dict.fromkeys([*figures, *common]) if key in first and key in second]
    rows = (
        (
            str(first[key]["prompt"]),
            [
                ClipFile(letter, output, str(table[key]["video"]), "the same frames" if key in same else "")
                for letter, output, table in zip("AB", outputs, (first, second), strict=True)
            ],
            f"{key}: {figures[key]}" if key in figures else key,
        )
        # Where nothing differs a few clips are enough to see that.
        for key in order[: _CLIPS if len(same) < len(common) else 4]
    )
    return _Clips(stage, fitting_rows(rows, MEDIA_BYTES), len(common), len(same))
