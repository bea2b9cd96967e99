"""What differs between two recorded runs. The answer comes first, what it rests on after it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lumina.formats import short_digest
from pipelines.diff.figures import (
    CURVES,
    CurveDiff,
    Figure,
    compare_curves,
    compare_evaluations,
    compare_metrics,
    largest_moves,
    read_curve,
    unmatched,
)
from pipelines.diff.rows import RowsDiff, compare_rows, read_uris
from pipelines.diff.runs import Held, Side, StageDiff, compare_stages, first_divergence, read_side
from pipelines.engine.recipe_diff import Change, by_inputs_alone, flat_changes, summary
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store

EQUAL, SAME_CONTENT, DIFFERENT = 0, 3, 4
"""Exit codes; 1 is an error, as everywhere."""
_MOVES = 3
"""Figures that the answer names."""


@dataclass(frozen=True)
class Difference:
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
    figures: tuple[Figure, ...]
    """Of evaluations."""
    metrics: tuple[Figure, ...]
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


def _figure(figure: Figure) -> dict[str, Any]:
    return asdict(figure) | {"moved": figure.moved, "outside": figure.outside}


def read_diff(a: tuple[Store, RunRecord], b: tuple[Store, RunRecord]) -> Difference:
    """Compare two recorded runs; nothing is computed. From a bucket come their records and what differs.

    Args:
        a, b: a store and the record of one of its runs.

    Raises:
        StoreError: rows or curves of an output cannot be read.
    """
    first, second = read_side(*a), read_side(*b)
    stages = compare_stages(first, second)
    pairs = [(stage, first.stages[stage.name], second.stages[stage.name]) for stage in stages if _in_both(stage)]
    manifests = [(x.manifest, y.manifest) for _, x, y in pairs if x.manifest and y.manifest]
    notes = [f"{stage.name}: {problem}" for stage in stages for problem in stage.problems]
    notes += [note for x, y in manifests for note in unmatched(x, y)]
    return Difference(
        first,
        second,
        stages,
        first_divergence(first, second, stages),
        _environment(first, second, {stage.name for stage, _, _ in pairs}),
        tuple(_rows(pairs)),
        tuple(_curves(pairs)),
        tuple(figure for x, y in manifests for figure in compare_evaluations(x, y)),
        tuple(figure for x, y in manifests for figure in compare_metrics(x, y)),
        tuple(notes),
    )


def _in_both(stage: StageDiff) -> bool:
    return None not in stage.states


def _rows(pairs: Sequence[tuple[StageDiff, Held, Held]]) -> Iterator[RowsDiff]:
    uris: dict[str, str] = {}
    for stage, a, b in pairs:
        if stage.digests[0] == stage.digests[1] or a.output is None or b.output is None:
            continue
        if a.output.manifest.kind == b.output.manifest.kind == "rows":
            uris = uris or _uris(pairs)
            yield compare_rows(stage.name, a.output, b.output, uris)


def _uris(pairs: Sequence[tuple[StageDiff, Held, Held]]) -> dict[str, str]:
    """Where each clip lies, from the first stage that tells."""
    for stage, *sides in pairs:
        outputs = [held.output for held in sides if held.output and held.output.manifest.kind == "rows"]
        if stage.digests[0] == stage.digests[1]:
            outputs = outputs[:1]  # the rows are the same
        found: dict[str, str] = {}
        for output in outputs:
            found |= read_uris(stage.name, output)
        if found:
            return found
    return {}


def _curves(pairs: Sequence[tuple[StageDiff, Held, Held]]) -> Iterator[CurveDiff]:
    for stage, a, b in pairs:
        if stage.shared or a.output is None or b.output is None:
            continue
        paths = [output.fetch(CURVES) for output in (a.output, b.output)]
        if all((path / CURVES).is_file() for path in paths):
            first, second = (read_curve(stage.name, path) for path in paths)
            yield from compare_curves(stage.name, first, second)


def _environment(a: Side, b: Side, names: set[str]) -> tuple[Change, ...]:
    first, second = (_surroundings(side, names) for side in (a, b))
    return tuple(change for part in first for change in flat_changes(first[part], second[part], part))


def _surroundings(side: Side, names: set[str]) -> dict[str, dict[str, Any]]:
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


def _answer(found: Difference) -> str:
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
        text += f"; {len(moved)} figures differ, most {_move(largest_moves(moved, 1)[0])}"
    return text


def _what(found: Difference, stage: StageDiff) -> str:
    if stage.verdict == "not reproduced":
        old, new = (short_digest(str(digest)) for digest in stage.digests)
        return f"NOT REPRODUCED, the same recipe gave another digest, {old} -> {new}"
    if stage.verdict in ("only in A", "only in B"):
        side = found.a if stage.verdict == "only in A" else found.b
        return f"{stage.verdict} ({side.run})"
    if stage.verdict == "unfinished":
        return f"not finished in both runs ({stage.states[0]} -> {stage.states[1]})"
    return summary(stage.changes) or f"another digest; {'; '.join(stage.problems) or 'no recipe to compare'}"


def final_figures(found: Difference) -> tuple[Figure, ...]:
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


def _effect(found: Difference) -> str:
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
    return f"{where}: " + ", ".join(_move(one, one.stage.partition("@")[2] if siblings else "") for one in moves)


def _move(figure: Figure, variant: str = "") -> str:
    old, new = (f"{value:.4g}" for value in figure.values)
    if old == new:
        old, new = (f"{value:.10g}" for value in figure.values)
    return f"{figure.metric}{f' ({variant})' if variant else ''} {old} -> {new}"
