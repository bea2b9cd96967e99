"""Rules of the four claims, written down before the results: what has to be above zero, and what is then said.

A claim is a list of parts. A part is a number that is above zero if the claim holds, with an interval over clips (a
bootstrap over prompts, or held-out clips) and seeds (Student's t over the seeds' numbers), whose distances from the
estimate are added in squares, as those between the arms of a sweep. With one seed they are of clips alone.

    shown       every part lies above zero with its whole interval
    opposite    the first part, which the claim rests on, lies below zero with its whole interval
    not shown   else

Every interval holds at 95 % alone: where all parts have to hold, each is tested at the full level, and the whole keeps
it (intersection-union test; Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import Interval, Range, interval
from lumina.formats import counted, figure
from lumina.formats import interval as bounds

CONFIDENCE = 0.95
MARGIN = 0.05
"""How far below the finest scale's a score may lie to be called as good."""

Verdict = Literal["shown", "not shown", "opposite"]


@dataclass(frozen=True)
class Part:
    """What is above zero if the claim holds."""

    name: str
    """A noun phrase: what the number is."""
    seeds: tuple[Estimate, ...]
    """One for each seed of training; draws come from the same resamples."""
    exact: bool = False
    """Counted, so that no interval belongs to it."""

    def over_seeds(self, confidence: float) -> Interval:
        """The mean over seeds, with its interval over clips and seeds."""
        return over_seeds(self.seeds, confidence, self.exact)


@dataclass(frozen=True)
class Judged:
    """A claim with what became of it."""

    verdict: Verdict
    parts: tuple[tuple[str, Interval], ...]
    sentence: str


def over_seeds(seeds: Sequence[Estimate], confidence: float, exact: bool = False) -> Interval:
    """The mean of a figure over seeds, for other clips and other seeds. ValueError without a seed."""
    if not seeds:
        raise ValueError("no seed has this figure")
    values = np.array([one.value for one in seeds])
    mean = float(values.mean())
    if exact:
        return Interval(mean, mean, mean)
    draws = np.mean([one.draws for one in seeds], axis=0)
    span: Range | None = seeds[0].values
    clips = interval(mean, draws, min(one.units for one in seeds), confidence, span)
    reach = _reach(values, confidence)
    low, high = mean - math.hypot(mean - clips.low, reach), mean + math.hypot(clips.high - mean, reach)
    return Interval(mean, low, high) if span is None else Interval(mean, max(low, span[0]), min(high, span[1]))


def _reach(values: np.ndarray, confidence: float) -> float:
    """Half the width of Student's interval of a mean; 0 of one value, which tells nothing of others."""
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit

    t = float(stdtrit(len(values) - 1, 1 - (1 - confidence) / 2))
    return t * float(values.std(ddof=1)) / math.sqrt(len(values))


def judge(parts: Sequence[Part]) -> Judged:
    """Apply the rule. ValueError without a part."""
    if not parts:
        raise ValueError("a claim needs a part")
    found = tuple((part.name, part.over_seeds(CONFIDENCE)) for part in parts)
    verdict: Verdict = "not shown"
    if all(one.low > 0 for _, one in found):
        verdict = "shown"
    elif found[0][1].high < 0:
        verdict = "opposite"
    seeds = len(parts[0].seeds)
    over = counted(seeds, "seed") if seeds > 1 else "one seed, so other seeds are in no interval"
    said = "; ".join(_said(part, one) for part, (_, one) in zip(parts, found, strict=True))
    return Judged(verdict, found, f"{verdict.capitalize()}, with {over}: {said}.")


def _said(part: Part, found: Interval) -> str:
    numbers = figure(found.value, sign=True)
    if not part.exact:
        numbers += f" {bounds(found.low, found.high, sign=True)}"
    against = " (the other way)" if found.high < 0 else "" if found.low > 0 else " (undecided)"
    return f"{part.name} is {numbers}{against}"


def minus(a: Estimate, b: Estimate) -> Estimate:
    """a - b, resample by resample; no range, since it is no mean of values of a known one."""
    return Estimate(a.value - b.value, a.draws - b.draws, min(a.units, b.units))


def plus(a: Estimate, number: float) -> Estimate:
    """a + a number."""
    return Estimate(a.value + number, a.draws + number, a.units)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """The mean of several figures, resample by resample."""
    value = float(np.mean([one.value for one in parts]))
    return Estimate(value, np.mean([one.draws for one in parts], axis=0), min(one.units for one in parts))
