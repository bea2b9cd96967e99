"""VBench report: a figure of each dimension with its interval, who computed it, and what is missing.

`vbench/` is for what the official code computed, `vbench_native/` for what the judges here did: their numbers agree
with the official code's on its fixtures, but nobody has compared them on the published weights. A total has the prefix
of its weakest part, and there is none where a dimension is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lumina.evaluation.subsets import Interval
from lumina.formats import counted
from lumina.vbench.clip_files import index_of, prompt_of
from lumina.vbench.dimensions import DIMENSIONS, OFFICIAL_SAMPLES
from lumina.vbench.flicker import first_static
from lumina.vbench.intervals import Figure, Judged, figures
from lumina.vbench.score_store import Scored
from lumina.vbench.suite_config import TOTALS, By, figure_name, members_of, weakest

_NAMED = 4


@dataclass(frozen=True)
class DimensionResult:
    """One dimension."""

    name: str
    by: By
    interval: Interval | None
    """0..1; None where there is no figure."""
    prompts: int
    clips: int
    """That were scored."""
    failed: int
    """That could not be: then there is no figure, for a mean without them would be one of other clips."""
    gap: str | None
    """Why there is no figure."""
    note: str | None
    """How the protocol differs from the official one."""
    weights: Mapping[str, str]
    """Content digests, or versions of the official environment's libraries."""
    is_broken: bool = False
    """Whether the official code failed: the next run tries again."""

    @property
    def metric(self) -> str:
        """Name of the figure, with the prefix that says who computed it."""
        return figure_name(self.by, self.name)


@dataclass(frozen=True)
class TotalResult:
    """A total."""

    name: str
    by: By
    interval: Interval | None
    gap: str | None

    @property
    def metric(self) -> str:
        """As of a dimension."""
        return figure_name(self.by, self.name)


@dataclass(frozen=True, eq=False)
class Summary:
    """All of it."""

    dimensions: tuple[DimensionResult, ...]
    totals: tuple[TotalResult, ...]
    figures: Mapping[str, Figure]
    """By the names of dimensions and totals."""

    @property
    def failed(self) -> int:
        """Clips that could not be scored, by all dimensions, and dimensions whose official code failed."""
        return sum(one.failed + one.is_broken for one in self.dimensions)

    def metrics(self) -> dict[str, Interval]:
        """Figure of each metric that there is."""
        return {one.metric: one.interval for one in self._every if one.interval is not None}

    def names(self) -> dict[str, str]:
        """Metric of each dimension and total."""
        return {one.name: one.metric for one in self._every}

    def gaps(self) -> dict[str, str]:
        """Why there is no figure, by dimension and total."""
        return {one.name: one.gap for one in self._every if one.gap}

    @property
    def _every(self) -> tuple[DimensionResult | TotalResult, ...]:
        return (*self.dimensions, *self.totals)


@dataclass(frozen=True)
class DimensionScores:
    """What one dimension's judge said of all its clips."""

    by: By
    scored: Sequence[Scored]
    expected: int
    """Clips that the protocol asks for."""
    weights: Mapping[str, str]
    unavailable: str | None = None
    """Why nothing was scored: nobody here can."""
    broken: str | None = None
    """Why nothing was scored: the official code failed."""


def summarise(
    scores: Mapping[str, DimensionScores],
    strata: Mapping[str, str],
    *,
    samples: int,
    confidence: float,
    seed: int,
    resamples: int,
) -> Summary:
    """Reduce clips to figures with intervals over prompts.

    Args:
        scores: by dimension.
        strata: stratum of every prompt.
        samples: clips of a prompt that were asked for.
        confidence: of each interval alone.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    judged: dict[str, list[Judged]] = {}
    gaps: dict[str, str] = {}
    for name, found in scores.items():
        gap = _gap(found)
        clips = [] if gap else _counted(name, found, samples)
        if not gap and not any(clip.score.count for clip in clips):
            gap = _nothing_counts(name)
        if gap:
            gaps[name] = gap
        else:
            judged[name] = clips
    known = figures(judged, strata, seed, resamples) if judged else {}
    intervals = {name: figure.interval(confidence) for name, figure in known.items()}
    results = tuple(
        DimensionResult(
            name,
            found.by,
            intervals.get(name),
            known[name].prompts if name in known else 0,
            known[name].clips if name in known else 0,
            sum(one.verdict.score is None for one in found.scored),
            gaps.get(name),
            _note(name, found, samples, known[name].clips) if name in known else None,
            found.weights,
            found.broken is not None,
        )
        for name, found in ((name, scores[name]) for name in DIMENSIONS if name in scores)
    )
    return Summary(results, _totals(scores, intervals, gaps), known)


def _gap(found: DimensionScores) -> str | None:
    if not found.expected:
        return "no prompt of the file asks for it"
    if why := found.unavailable or found.broken:
        return why
    failed = [one for one in found.scored if one.verdict.score is None]
    if failed:
        count = f"{len(failed)} of {found.expected} clips" if found.expected > 1 else "the clip"
        return f"{count} cannot be scored; {failed[0].clip}: {failed[0].verdict.reason}"
    absent = found.expected - len(found.scored)
    return f"{absent} of {found.expected} clips {'is' if absent == 1 else 'are'} missing" if absent else None


def kept_clips(name: str, found: DimensionScores, samples: int) -> list[Scored]:
    """Clips that count, in the order of prompts and indices; those that cannot be scored are among them."""
    scored = list(found.scored)
    if name == "temporal_flickering" and any(one.verdict.is_static is not None for one in scored):
        prompts = dict.fromkeys(prompt_of(one.clip) for one in scored)
        kept = {
            clip
            for prompt in prompts
            for clip in first_static(
                {one.clip: bool(one.verdict.is_static) for one in scored if prompt_of(one.clip) == prompt}, samples
            )
        }
        scored = [one for one in scored if one.clip in kept]
    return sorted(scored, key=lambda one: (prompt_of(one.clip), index_of(one.clip) or 0))


def _counted(name: str, found: DimensionScores, samples: int) -> list[Judged]:
    kept = kept_clips(name, found, samples)
    return [Judged(prompt_of(one.clip), one.verdict.score) for one in kept if one.verdict.score is not None]


def _nothing_counts(name: str) -> str:
    if name == "temporal_flickering":
        return "the static filter lets no clip through"
    return "no clip counts: none shows what the dimension looks for"


def _note(name: str, found: DimensionScores, samples: int, kept: int) -> str | None:
    notes = []
    if samples != OFFICIAL_SAMPLES:
        notes.append(f"{counted(samples, 'clip')} a prompt, officially {OFFICIAL_SAMPLES}")
    if name == "temporal_flickering":
        filtered = any(one.verdict.is_static is not None for one in found.scored)
        chosen = f"the static filter kept {kept:,} of {len(found.scored):,} clips"
        notes.append(chosen if filtered else "without the static filter")
    return "; ".join(notes) or None


def _totals(
    scores: Mapping[str, DimensionScores], intervals: Mapping[str, Interval], gaps: Mapping[str, str]
) -> tuple[TotalResult, ...]:
    results = []
    for name in TOTALS:
        members = members_of(name)
        absent = [one for one in members if one not in scores or one in gaps]
        by = weakest(scores[one].by for one in members if one in scores)
        gap = None
        if absent:
            gap = f"without {', '.join(absent)}" if len(absent) < _NAMED else f"without {len(absent)} dimensions"
        results.append(TotalResult(name, by, None if gap else intervals[name], gap))
    return tuple(results)


def percent(interval: Interval) -> str:
    """A figure as the paper prints it, with its interval: "83.92 [83.10, 84.61]"."""
    if not math.isfinite(interval.low):
        return f"{100 * interval.value:.2f}"
    return f"{100 * interval.value:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
