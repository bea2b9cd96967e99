"""Comparison of two recorded runs. The answer comes first, what it rests on after it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from lumina.formats import short_digest
from pipelines.compare.metrics import (
    CURVES,
    CurveDiff,
    MetricDiff,
    compare_curves,
    compare_evaluations,
    compare_metrics,
    largest_moves,
    read_curve,
    unmatched,
)
from pipelines.compare.rows import RowsDiff, compare_rows, open_rows, read_uris
from pipelines.compare.runs import Side, StageDiff, compare_stages, first_divergence, read_side
from pipelines.engine.recipe_diff import Change, by_inputs_alone, flat_changes, summary
from pipelines.engine.store.output import Output
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store

EQUAL, SAME_CONTENT, DIFFERENT = 0, 3, 4
"""Exit codes; 1 is an error, as everywhere."""
_MOVES = 3
"""Figures that the answer names."""


@dataclass(frozen=True)
class RunDiff:
    """Two runs, A and B."""

    a: Side
    b: Side
    stages: tuple[StageDiff, ...]
    first: StageDiff | None
    """The first stage whose content differs for a reason of its own; None if all digests are the same."""
    environment: tuple[Change, ...]
    """Machine, commit and runtime options of the stages, where they differ."""
    rows: tuple[RowsDiff, ...]
    """Of row stages whose digests differ."""
    curves: tuple[CurveDiff, ...]
    figures: tuple[MetricDiff, ...]
    """Of evaluations."""
    metrics: tuple[MetricDiff, ...]
    """Summary figures of all stages."""
    notes: tuple[str, ...]
    """What could not be compared, or is in one run alone."""

    @property
    def exit_code(self) -> int:
        """0: the same digests from the same recipes, and the same figures. 3: the same digests, but a recipe or a
        figure differs. 4: a digest differs, or a stage is not finished in both. Time, machine and commit alone are
        no difference."""
        if self.first is not None:
            return DIFFERENT
        other = any(stage.verdict != "equal" for stage in self.stages)
        return SAME_CONTENT if other or any(one.moved for one in (*self.figures, *self.metrics)) else EQUAL

    @property
    def answer(self) -> str:
        """One line: equal, or the first divergence and what it did to the metrics."""
        return _answer(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`; every row that changed is in it."""
        sides = {
            letter: {"run": side.run, "name": side.name, "started": side.started, "seconds": side.seconds,
                     "store": side.store}
            for letter, side in (("a", self.a), ("b", self.b))
        }  # fmt: skip
        content = {
            "answer": self.answer,
            "exit": self.exit_code,
            **sides,
            "first": self.first and self.first.name,
            "stages": [asdict(stage) for stage in self.stages],
            "environment": [asdict(change) for change in self.environment],
            "rows": [asdict(rows) for rows in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "figures": [_figure(figure) for figure in self.figures],
            "metrics": [_figure(figure) for figure in self.metrics],
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = _finite(content)
        return plain


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    return [_finite(child) for child in value] if isinstance(value, list | tuple) else value


def _figure(figure: MetricDiff) -> dict[str, Any]:
    return asdict(figure) | {"moved": figure.moved, "outside": figure.outside}


def read_diff(a: tuple[Store, RunRecord], b: tuple[Store, RunRecord]) -> RunDiff:
    """Compare two recorded runs; nothing is computed. From a bucket come their records and what differs.

    Args:
        a, b: a store and the record of one of its runs.

    Raises:
        StoreError: rows or curves of an output cannot be read.
    """
    first, second = read_side(*a), read_side(*b)
    stages = compare_stages(first, second)
    pairs = list(_outputs(first, second, stages))
    manifests = [(x.manifest, y.manifest) for _, x, y in pairs]
    notes = [f"{stage.name}: {problem}" for stage in stages for problem in stage.problems]
    notes += [note for x, y in manifests for note in unmatched(x, y)]
    return RunDiff(
        first,
        second,
        stages,
        first_divergence(first, second, stages),
        _environment(first, second),
        tuple(_rows(pairs)),
        tuple(_curves(pairs)),
        tuple(figure for x, y in manifests for figure in compare_evaluations(x, y)),
        tuple(figure for x, y in manifests for figure in compare_metrics(x, y)),
        tuple(notes),
    )


_Pair = tuple[StageDiff, Output, Output]
"""A stage of which both runs have the output."""


def _outputs(a: Side, b: Side, stages: Sequence[StageDiff]) -> Iterator[_Pair]:
    for stage in stages:
        first, second = (side.stages.get(stage.name) for side in (a, b))
        if first and first.output and second and second.output:
            yield stage, first.output, second.output


def _rows(pairs: Sequence[_Pair]) -> Iterator[RowsDiff]:
    tables = [(stage, a, b) for stage, a, b in pairs if a.manifest.kind == b.manifest.kind == "rows"]
    for stage, a, b in tables:
        if stage.digests[0] != stage.digests[1]:
            yield compare_rows(stage.name, a, b, partial(_uris, tables))


def _uris(pairs: Sequence[_Pair], ids: Sequence[str]) -> Mapping[str, str]:
    """Where clips lie, from the first stage that tells."""
    for stage, a, b in pairs:
        tables = [open_rows(stage.name, one) for one in ((a,) if stage.digests[0] == stage.digests[1] else (a, b))]
        if all({"clip_id", "uri"} <= set(table.names) for table in tables):
            return read_uris(tables, ids)
    return {}


def _curves(pairs: Sequence[_Pair]) -> Iterator[CurveDiff]:
    for stage, *outputs in pairs:
        paths = [] if stage.shared else [output.fetch(CURVES) for output in outputs]
        if paths and all((path / CURVES).is_file() for path in paths):
            first, second = (read_curve(stage.name, path) for path in paths)
            yield from compare_curves(stage.name, first, second)


def _environment(a: Side, b: Side) -> tuple[Change, ...]:
    names = a.stages.keys() & b.stages.keys()
    first, second = (_surroundings(side, names) for side in (a, b))
    return tuple(change for part in first for change in flat_changes(first[part], second[part], part))


def _surroundings(side: Side, names: Set[str]) -> dict[str, dict[str, Any]]:
    """What the stages' records say about machine and code: one value, or each with the stages that have it."""
    seen: dict[str, dict[str, dict[str, list[str]]]] = {"git": {}, "env": {}, "runtime": {}}
    for name, held in side.stages.items():
        if held.manifest is None or name not in names:
            continue
        git = held.manifest.git
        commit = short_digest(str(git["commit"])) if git else "not recorded"
        commit += " with changes" if git.get("dirty") else ""
        facts = {
            "git": {"commit": commit},
            "env": {"host": held.manifest.host, **held.manifest.env},
            "runtime": {f"runtime.{key}": value for key, value in held.manifest.runtime.items()},
        }
        for part, values in facts.items():
            for key, value in values.items():
                text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
                seen[part].setdefault(key, {}).setdefault(text, []).append(name)
    return {part: {key: _several(texts) for key, texts in keys.items()} for part, keys in seen.items()}


def _several(texts: Mapping[str, Sequence[str]]) -> str:
    if len(texts) == 1:
        return next(iter(texts))
    ordered = sorted(texts.items(), key=lambda item: (-len(item[1]), item[0]))
    return ", ".join(
        f"{text} in {len(names)} stages" if len(names) > 1 else f"{text} in one" for text, names in ordered
    )


def _answer(found: RunDiff) -> str:
    stage = found.first
    if stage is not None:
        others = [other for other in found.stages if other.name != stage.name]
        rest = sum(other.verdict == "differs" for other in others)
        broken = [other.name for other in others if other.verdict == "not reproduced"]
        more = [f"{rest} more {'stage differs by itself' if rest == 1 else 'stages differ by themselves'}"] * bool(rest)
        more += [f"NOT REPRODUCED besides: {', '.join(broken)}"] * bool(broken)
        aside = f" ({'; '.join(more)})" if more else ""
        return f"first divergence: {stage.name}: {_what(found, stage)}{aside}; {_effect(found)}"
    text = f"equal: all {len(found.stages)} stages have the same digests"
    shared = sum(stage.shared for stage in found.stages)
    if shared:
        text += f" ({shared} of them are one output that both runs use)"
    others = [other for other in found.stages if other.verdict != "equal"]
    if others:
        causes = [other for other in others if other.changes and not by_inputs_alone(other.changes)] or others
        noun = "recipe differs" if len(causes) == 1 else "recipes differ"
        text += (
            f"; {len(causes)} {noun}, first {causes[0].name}: {summary(causes[0].changes) or 'not recorded any more'}"
        )
    moved = [figure for figure in (*found.figures, *found.metrics) if figure.moved]
    if moved:
        text += f"; {len(moved)} figures differ, most {largest_moves(moved, 1)[0].text('')}"
    return text


def _what(found: RunDiff, stage: StageDiff) -> str:
    if stage.verdict == "not reproduced":
        old, new = (short_digest(str(digest)) for digest in stage.digests)
        return f"NOT REPRODUCED, the same recipe gave another digest, {old} -> {new}"
    if stage.verdict in ("only in A", "only in B"):
        side = found.a if stage.verdict == "only in A" else found.b
        return f"{stage.verdict} ({side.run})"
    if stage.verdict == "unfinished":
        return f"not finished in both runs ({stage.states[0]} -> {stage.states[1]})"
    return summary(stage.changes) or f"another digest; {'; '.join(stage.problems) or 'no recipe to compare'}"


def final_figures(found: RunDiff) -> tuple[MetricDiff, ...]:
    """What the runs came to: the last evaluation of a stage whose content differs, with its siblings for the other
    system prompts; without one the figures of the last such stage that has any."""
    changed = {stage.name for stage in found.stages if stage.digests[0] != stage.digests[1]}
    for figures in (found.figures, found.metrics):
        known = [one for one in figures if one.stage in changed]
        # A count of steps says what was asked for, a loss what came of it.
        known = [one for one in known if one.evaluation or "loss" in one.metric or "/val/" in one.metric] or known
        if known:
            last = known[-1]
            if "@" in last.stage and last.evaluation:
                return tuple(one for one in known if one.stage.partition("@")[0] == last.stage.partition("@")[0])
            return tuple(one for one in known if (one.stage, one.evaluation) == (last.stage, last.evaluation))
    return ()


def _effect(found: RunDiff) -> str:
    final = final_figures(found)
    if not final:
        return "no figure moved" if found.figures or found.metrics else "no figure is in both runs"
    siblings = len({one.stage for one in final}) > 1
    last = final[-1]
    where = f"{last.stage} ({last.evaluation})" if last.evaluation else last.stage
    where = last.stage.partition("@")[0] if siblings else where
    moves = largest_moves(final, _MOVES)
    if not moves:
        return f"no figure of {where} moved"
    return f"{where}: " + ", ".join(one.text(one.stage.partition("@")[2] if siblings else "") for one in moves)
