"""The four claims: which figures each reads, what its parts are, and what its page shows beside them.

Everything here was written before the runs of `claims.yaml`; see `benchmarks.claims.rules` for the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.evidence import BASE, DEMO, MORE, NONE, Losses, SeedRun, Sourced, Studied, of_arm
from benchmarks.claims.evidence import losses as losses_of
from benchmarks.claims.evidence import sources as sources_of
from benchmarks.claims.evidence import study as study_of
from benchmarks.claims.losses import TIMES
from benchmarks.claims.rules import CONFIDENCE, MARGIN, Judged, Part, judge, mean_of, minus, over_seeds, plus
from benchmarks.demo_seeds import PLANTED
from jobs.train_plots import WORSE
from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import FloatArray, Interval
from lumina.formats import counted, duration, figure, interval
from lumina.pages.charts import COLORS, Axis, Chart, Forest, Line
from lumina.pages.charts import Interval as Row
from lumina.pages.page import Cell

EQUAL, UNEQUAL, SCHEDULED = ("4/4", "8/8"), ("4/2", "8/2"), ("4/2-4", "8/2-8")
"""Arms of the study of motion: positive and negative score alike, apart, and apart until t = 0.05."""

ASKED_SPEED = "shapes/speed_rank_corr"
"""Follows the speed that a prompt asks for, and these ask for none."""


@dataclass(frozen=True)
class Claim:
    """One claim with its evidence, as its page shows it."""

    key: str
    """`a` to `d`."""
    title: str
    paper: str
    """Where the paper says it."""
    judged: Judged
    seeds: str
    """How many seeds of what it is over."""
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    notes: tuple[str, ...]
    charts: tuple[Chart, ...] = ()
    forest: tuple[str, Forest] | None = None
    """Intervals under each other, with their heading."""


def claims(runs: Sequence[SeedRun], wanted: str = "abcd") -> list[Claim]:
    """Every claim whose runs are there.

    Raises:
        ValueError: no run of the first arm is done, or one lacks an output.
    """
    base = of_arm(runs, BASE)
    if not base:
        raise ValueError(f"no run of the arm {BASE!r} is done yet: nothing can be said")
    makers: Mapping[str, Callable[[], Claim]] = {
        "a": lambda: by_scale([losses_of(run) for run in base]),
        "b": lambda: by_cost([study_of(run, "schedules") for run in base]),
        "c": lambda: by_motion([study_of(run, "motion") for run in base]),
        "d": lambda: by_source(
            {arm: [sources_of(run) for run in of_arm(runs, arm)] for arm in (BASE, NONE, MORE, DEMO)}
        ),
    }
    return [makers[key]() for key in wanted]


def by_scale(seeds: Sequence[Losses]) -> Claim:
    """(a) Figure 3."""
    names = seeds[0].scales
    finest, coarser = names[0], names[1:]
    middle, coarsest = coarser[0], coarser[-1]
    growth = {name: tuple(one.excess[at][0] for one in seeds) for at, name in enumerate(coarser)}
    parting = {name: tuple(one.excess[at][1] for one in seeds) for at, name in enumerate(coarser)}
    first = tuple(minus(a, b) for a, b in zip(parting[middle], parting[coarsest], strict=True))
    parts = [
        Part(f"growth over t of the log loss of {coarsest} over {finest}", growth[coarsest]),
        Part(f"growth over t of the log loss of {middle} over {finest}", growth[middle]),
        Part(f"how much earlier in t {coarsest} parts than {middle}", first),
    ]
    rows = [
        [Cell("parts from the finest at t", "over a tenth worse from there; 1: never"), *_cells(parting, coarser)],
        [Cell("growth of the log ratio", "its mean over t > 0.5 less that over t < 0.5"), *_cells(growth, coarser)],
    ]
    curves = np.mean([one.curves for one in seeds], axis=0)
    lines = [
        Line(name, at, [(t, float(v)) for t, v in zip(TIMES, curve, strict=True)])
        for at, (name, curve) in enumerate(zip(names, curves, strict=True))
    ]
    ratios = [_ratio(name, at, curves[at] / curves[0], parting[name]) for at, name in enumerate(coarser, start=1)]
    ratios.append(Line("a tenth worse", COLORS, [(0, WORSE), (1, WORSE)], dashed=True))
    t = Axis(0, 1, "t (0 noise, 1 data)")
    heights = [[value for line in some for _, value in line.points] for some in (lines, ratios)]
    y = Axis(0.95 * min(1, *heights[1]), 1.05 * max(heights[1]))
    charts = (
        Chart(
            "Mean squared error of held-out clips", "Loss over t by scale", t, Axis(0, 1.05 * max(heights[0])), lines
        ),
        Chart(f"Over the error of {finest}", "Ratio over t by scale", t, y, ratios),
    )
    notes = (
        "Every scale sees the same held-out clips from the same noises; a dotted line stands where a scale parts.",
    )
    title = "The loss of a scale parts from the finest's as t grows, the coarsest first"
    return Claim("a", title, "Figure 3", judge(parts), _trained(seeds), ("figure", *coarser), rows, notes, charts)


def _ratio(name: str, color: int, ratio: FloatArray, parting: Sequence[Estimate]) -> Line:
    points = [(t, float(value)) for t, value in zip(TIMES, ratio, strict=True)]
    found = over_seeds(parting, CONFIDENCE)
    if found.value >= 1:
        return Line(name, color, points, note="never parts")
    return Line(name, color, points, mark=found.value, note=f"parts at {_bounded(found)}")


def by_cost(seeds: Sequence[Studied]) -> Claim:
    """(b) Table 2."""
    content = seeds[0].content
    arms = [arm for arm in content["order"] if arm != "combined"]
    finest, coarsest = arms[0], arms[-1]
    score = {arm: tuple(one.figures[arm]["score"] for one in seeds) for arm in content["order"]}
    cost = {arm: content["arms"][arm]["cost"]["relative"] for arm in content["order"]}
    gap = _differences(score["combined"], score[finest])
    exact = Estimate(1 - cost["combined"], np.zeros(1), 2)
    parts = [
        Part(
            f"score of the combined schedule less that of {finest}, plus {MARGIN:g}",
            tuple(plus(g, MARGIN) for g in gap),
        ),
        Part(f"score of {finest} less that of {coarsest}", _differences(score[finest], score[coarsest])),
        Part("share of the cost that combining saves", (exact,) * len(seeds), exact=True),
    ]
    order = content["order"]
    rows = [
        [Cell("cost", "operations, of the finest scale alone"), *(Cell(f"{cost[arm]:.3f}") for arm in order)],
        [Cell("a clip", "sampled and decoded, by the clock"), *(_seconds(seeds, arm) for arm in order)],
        *_figures(seeds, order),
    ]
    found = {arm: over_seeds(score[arm], CONFIDENCE) for arm in order}
    ends = [end for one in found.values() for end in (one.low, one.high)]
    margin = 0.05 * (max(ends) - min(ends)) or 0.1
    chart = Chart(
        "Score, with its interval, over cost",
        "Score over cost: " + "; ".join(f"{arm} {_bounded(found[arm])} at {cost[arm]:.3f}" for arm in order),
        Axis(0, 1.05 * max(cost.values()), "cost, of the finest scale alone"),
        Axis(min(ends) - margin, max(ends) + margin),
        [
            Line(arm, at, [(cost[arm], one.low), (cost[arm], one.high)], dots=[(cost[arm], one.value)])
            for at, (arm, one) in enumerate(found.items())
        ],
    )
    title = "Combining the scales from coarse to fine is as good as the finest alone, and costs less"
    columns = ("figure", *order)
    return Claim("b", title, "Table 2", judge(parts), _trained(seeds), columns, rows, (_SCORE, _BOUNDS), (chart,))


def by_motion(seeds: Sequence[Studied]) -> Claim:
    """(c) Table 3."""

    def values(arm: str, name: str) -> tuple[Estimate, ...]:
        return tuple(one.figures[arm][name] for one in seeds)

    def effect(name: str, arms: tuple[str, str], less: tuple[str, str]) -> tuple[Estimate, ...]:
        """Mean over both positive scores of one pair of arms less the other."""
        pairs = [_differences(values(a, name), values(b, name)) for a, b in zip(arms, less, strict=True)]
        return tuple(mean_of(both) for both in zip(*pairs, strict=True))

    apart = effect("measured speed", UNEQUAL, EQUAL)
    level = _differences(values(EQUAL[1], "measured speed"), values(EQUAL[0], "measured speed"))
    parts = [
        Part(
            "what a difference of the scores adds to the speed, less what twice their level adds",
            _differences(apart, level),
        ),
        Part("what a difference of the scores adds to the speed", apart),
    ]
    order = [*EQUAL, *UNEQUAL, *SCHEDULED]
    rows = [
        [Cell("measured speed", "shorter sides a second"), *(_row(values(arm, "measured speed")) for arm in order)],
        *_figures(seeds, order),
    ]
    price = over_seeds(effect("score", UNEQUAL, EQUAL), CONFIDENCE)
    again = over_seeds(effect("score", SCHEDULED, UNEQUAL), CONFIDENCE)
    lost = over_seeds(effect("measured speed", SCHEDULED, UNEQUAL), CONFIDENCE)
    notes = (
        f"Twice the level of both scores adds {_told(over_seeds(level, CONFIDENCE))} to the speed.",
        f"A difference of the scores changes the score by {_told(price)}; to have it until t = 0.05 alone changes the "
        f"score by {_told(again)} and the speed by {_told(lost)} against that.",
        "Arms are named after the paper's scores, which are 16 times these: 4/2 is 0.25 for the caption and 0.125 for "
        "the negative side. Captions and prompts say nothing of speed.",
        _SCORE,
        _BOUNDS,
    )
    speeds = {arm: values(arm, "measured speed") for arm in order}
    title = "Measured speed follows the difference of positive and negative motion score more than their level"
    forest = ("Measured speed by positive/negative score, shorter sides a second", _forest(speeds))
    return Claim("c", title, "Table 3", judge(parts), _trained(seeds), ("figure", *order), rows, notes, forest=forest)


def by_source(arms: Mapping[str, Sequence[Sourced]]) -> Claim:
    """(d) Multi-source training: system prompts, best subset, fine-tuning, share of synthetic clips.

    All but the share is read from the demo's runs, where there are any.
    """
    base = arms[DEMO] or arms[BASE]
    others = [name for name in sorted(base[0].sources) if name != PLANTED]
    planted = tuple(one.sources[PLANTED] for one in base)
    parts = [
        Part(
            f"score under {PLANTED} less that under {name}", _differences(planted, tuple(o.sources[name] for o in base))
        )
        for name in others
    ]
    hits = sum(one.found == (PLANTED,) for one in base)
    exact = tuple(Estimate(float(one.found == (PLANTED,)) - 0.5, np.zeros(1), 2) for one in base)
    parts += [
        Part("share of the seeds whose best subset is the planted one, less a half", exact, exact=True),
        Part(
            "what fine-tuning adds to the score",
            _differences(tuple(o.after for o in base), tuple(o.before for o in base)),
        ),
    ]
    notes = [
        f"Best subset found, by seed: {'; '.join(' + '.join(one.found) for one in base)}. "
        f"The planted one, {PLANTED}, by {hits} of {counted(len(base), 'seed')}.",
        f"Not told apart from the best, by seed: {'; '.join(', '.join(one.best_set) for one in base)}.",
    ]
    both = {one.seed for one in arms[NONE]} & {one.seed for one in arms[MORE]}
    if both:
        # Runs of one seed begin with the same weights and noises.
        more, none = ([one.before for one in arms[arm] if one.seed in both] for arm in (MORE, NONE))
        parts.append(Part("what 80 % of synthetic clips in training add to none", _differences(more, none)))
    else:
        notes.append("The runs of other shares of synthetic clips are not there: nothing is said of them.")
    scores = {
        **{
            (f"under {name}", "trained on all"): tuple(one.sources[name] for one in base) for name in (PLANTED, *others)
        },
        ("before fine-tuning", "on other prompts, under the chosen source's"): tuple(one.before for one in base),
        ("after fine-tuning", "the same"): tuple(one.after for one in base),
        **{
            (f"before fine-tuning, {arm}", "share of synthetic clips in training"): tuple(o.before for o in arms[arm])
            for arm in ((BASE,) if arms[DEMO] else ()) + (NONE, MORE)
            if arms[arm]
        },
    }
    rows = [[Cell(*name), _row(seeds)] for name, seeds in scores.items()]
    forest = ("Scores", _forest({name: seeds for (name, _), seeds in scores.items()}))
    title = (
        "System prompts tell sources apart, the best subset is the planted one, fine-tuning on it and more of it help"
    )
    seeds = _trained(base)
    if arms[DEMO]:
        seeds = f"{counted(len(base), 'run')} of the demo, each on other clips"
        notes.append(
            "All but the share of synthetic clips is of the demo, whose model trains longer, at one scale, and knows "
            "shapes. This was decided when the sweep's own models had been seen to draw few right; and the flaws of "
            "the demo's sources were set until its choice was significant."
        )
    notes += [_SCORE, _BOUNDS]
    return Claim("d", title, "section 4", judge(parts), seeds, ("score", "value"), rows, tuple(notes), forest=forest)


_SCORE = "Score: mean of the shares of clips whose colour, shape and direction are as asked."
_BOUNDS = (
    "Intervals of figures hold at 95 %, each alone, as those above do; of several seeds their own values stand below."
)


def _trained(seeds: Sequence[object]) -> str:
    return f"{counted(len(seeds), 'seed')} of training"


def _differences(a: Sequence[Estimate], b: Sequence[Estimate]) -> tuple[Estimate, ...]:
    return tuple(minus(one, other) for one, other in zip(a, b, strict=True))


def _figures(seeds: Sequence[Studied], order: Sequence[str]) -> list[list[Cell]]:
    meaning = seeds[0].content["meaning"]
    return [
        [Cell(name, meaning.get(name, "")), *(_row([one.figures[arm][name] for one in seeds]) for arm in order)]
        for name in seeds[0].content["figures"]
        if name != ASKED_SPEED
    ]


def _cells(values: Mapping[str, Sequence[Estimate]], names: Sequence[str]) -> list[Cell]:
    return [_row(values[name]) for name in names]


def _row(seeds: Sequence[Estimate]) -> Cell:
    return _cell(over_seeds(seeds, CONFIDENCE), [one.value for one in seeds])


def _cell(found: Interval, seeds: Sequence[float]) -> Cell:
    lines = [interval(found.low, found.high), *[", ".join(map(figure, seeds))] * (len(seeds) > 1)]
    return Cell(figure(found.value), "\n".join(lines))


def _forest(figures: Mapping[str, Sequence[Estimate]]) -> Forest:
    found = {name: over_seeds(seeds, CONFIDENCE) for name, seeds in figures.items()}
    return Forest([Row(name, one.value, one.low, one.high) for name, one in found.items()])


def _bounded(found: Interval) -> str:
    return f"{figure(found.value)} {interval(found.low, found.high)}"


def _seconds(seeds: Sequence[Studied], arm: str) -> Cell:
    times = [one.content["arms"][arm]["seconds_per_clip"] for one in seeds]
    return Cell("–" if None in times else duration(sum(times) / len(times)))


def _told(found: Interval) -> str:
    return f"{figure(found.value, sign=True)} {interval(found.low, found.high, sign=True)}"
