"""Clustered bootstrap of VBench: intervals of dimensions and totals over prompts, each with its own reducer inside.

A prompt's clips are drawn together, and a prompt that several dimensions judge is drawn for all of them at once, so
that totals have the right covariance. Prompts are stratified by their dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lumina.evaluation.subsets import FloatArray, Interval, Range, interval, resample
from lumina.vbench.clip_score import ClipScore, dimension_score, prompt_sums
from lumina.vbench.dimensions import DIMENSIONS, Group
from lumina.vbench.totals import group_score, totals

_QUALITY, _SEMANTIC = 0.8, 0.2


@dataclass(frozen=True)
class Judged:
    """One clip by one dimension."""

    prompt: str
    score: ClipScore


@dataclass(frozen=True, eq=False)
class Figure:
    """A score and what it would be on other prompts."""

    value: float
    draws: FloatArray
    """[B]"""
    prompts: int
    clips: int
    bounds: Range | None
    """Of what the value is a mean of; None for a total."""

    def interval(self, confidence: float) -> Interval:
        """Its confidence interval."""
        return interval(self.value, self.draws, self.prompts, confidence, self.bounds)


def figures(
    judged: Mapping[str, Sequence[Judged]], strata: Mapping[str, str], seed: int, resamples: int
) -> dict[str, Figure]:
    """Figures of the dimensions that were scored, and "quality", "semantic" and "total" where nothing is missing.

    Args:
        judged: dimension to its clips, raw scores 0..1.
        strata: stratum of every prompt.
        seed: of the bootstrap.
        resamples: B.

    Raises ValueError for a dimension without a clip that counts.
    """
    # All of them, also those whose clips the static filter leaves out: draws of two sets of clips are paired.
    prompts = sorted(strata)
    drawn = resample(prompts, seed, resamples, [strata[prompt] for prompt in prompts]).astype(np.float64)
    column = {prompt: number for number, prompt in enumerate(prompts)}
    found: dict[str, Figure] = {}
    for name in (known for known in DIMENSIONS if known in judged):
        clips = judged[name]
        names = list(dict.fromkeys(clip.prompt for clip in clips))
        sums, counts = prompt_sums([clip.score for clip in clips], [clip.prompt for clip in clips])
        times = drawn[:, [column[prompt] for prompt in names]]
        number = times @ counts
        draws = np.divide(times @ sums, number, out=np.full(resamples, np.nan), where=number > 0)
        value = dimension_score([clip.score for clip in clips])
        bounds = (0.0, 1.0) if DIMENSIONS[name].is_bounded else None
        found[name] = Figure(value, draws, int((counts > 0).sum()), len(clips), bounds)
    return found | _totals(found)


def _totals(found: Mapping[str, Figure]) -> dict[str, Figure]:
    groups: dict[str, Figure] = {}
    for group in ("quality", "semantic"):
        members = [name for name, dimension in DIMENSIONS.items() if dimension.group == group]
        if all(name in found for name in members):
            groups[group] = _group(found, group, members)
    if len(groups) < 2:
        return groups
    whole = totals({name: found[name].value for name in DIMENSIONS})
    draws = _QUALITY * groups["quality"].draws + _SEMANTIC * groups["semantic"].draws
    least, clips = min(one.prompts for one in groups.values()), sum(one.clips for one in groups.values())
    return {**groups, "total": Figure(whole.total, draws, least, clips, None)}


def _group(found: Mapping[str, Figure], group: Group, members: Sequence[str]) -> Figure:
    weights = np.array([DIMENSIONS[name].weight for name in members])
    normalised = np.stack([_normalised(name, found[name].draws) for name in members])
    value = group_score({name: found[name].value for name in members}, group)
    draws = weights @ normalised / weights.sum()
    # As sure as its dimension with the fewest prompts.
    least = min(found[name].prompts for name in members)
    return Figure(value, draws, least, sum(found[name].clips for name in members), None)


def _normalised(name: str, draws: FloatArray) -> FloatArray:
    dimension = DIMENSIONS[name]
    return (draws - dimension.least) / (dimension.greatest - dimension.least)
