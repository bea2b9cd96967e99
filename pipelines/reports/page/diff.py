"""`lumina diff --html`: two runs compared on one self-contained page, with curves and clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lumina.pages.charts import Axis, Chart, Line, thinned
from lumina.pages.page import MEDIA_BYTES, ClipRow, render
from pipelines.compare.difference import Difference
from pipelines.compare.metrics import CURVES, read_curve
from pipelines.compare.rows import RowChange, match_rows, most_moved
from pipelines.compare.runs import Held
from pipelines.reports.diff_view import change_text, sections, shown_curves
from pipelines.reports.page.clips import ClipFile, fitting_rows
from pipelines.terminal import clean

TEMPLATE = Path(__file__).with_name("diff.html.j2")
_CLIPS = 24
_CHARTS = 12
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
    first, *rest = sections(found)
    return render(
        TEMPLATE,
        clean,
        plays=True,
        found=found,
        style={0: "done", 3: "waiting"}.get(found.exit_code, "failed"),
        sections=[replace(first, title="Stages"), *rest],
        ids=[("stages", "Stages"), *((f"s{at}", section.title) for at, section in enumerate(rest)), ("clips", "Clips")],
        charts=list(_charts(found)),
        sheet=_clips(found),
    )


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
    match = match_rows(stage, a.output, b.output)
    if not {"video", "prompt", "frames_sha256"} <= set(match.columns):
        return None
    common = match.keys.to_pylist()
    prompts, _ = match.column("prompt")
    frames, videos = match.column("frames_sha256"), match.column("video")
    same = {key for key, old, new in zip(common, *(of.to_pylist() for of in frames), strict=True) if old == new}
    places = {key: row for row, key in enumerate(common)}
    figures = {change.key: _arrows(change_text(change, _FIGURES).partition(": ")[2]) for change in moved}
    order = [key for key in dict.fromkeys([*figures, *common]) if key in places]
    rows = (
        (
            str(prompts[places[key]]),
            [
                ClipFile(letter, output, str(names[places[key]]), "the same frames" if key in same else "")
                for letter, output, names in zip("AB", (a.output, b.output), videos, strict=True)
            ],
            f"{key}: {figures[key]}" if key in figures else key,
        )
        # Where nothing differs a few clips are enough to see that.
        for key in order[: _CLIPS if len(same) < len(common) else 4]
    )
    return _Clips(stage, fitting_rows(rows, MEDIA_BYTES), len(common), len(same))
