"""The four claims: which figures each reads, what its parts are, and what its page shows beside them.

Everything here was written before the runs of `claims.yaml`; see `benchmarks.claims.rules` for the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims.evidence import BASE, MORE, NONE, PLANTED, Losses, SeedRun, Sourced, Studied, of_arm
from benchmarks.claims.evidence import losses as losses_of
from benchmarks.claims.evidence import sources as sources_of
from benchmarks.claims.evidence import study as study_of
from benchmarks.claims.losses import TIMES
from benchmarks.claims.rules import CONFIDENCE, MARGIN, Judged, Part, judge, mean_of, minus, over_seeds, plus
from lumina.evaluation.metrics import Estimate
from lumina.evaluation.subsets import Interval
from lumina.formats import duration, figure, interval
from lumina.pages.charts import Axis, Chart, Line
from lumina.pages.page import Cell

EQUAL, UNEQUAL, SCHEDULED = ("4/4", "8/8"), ("4/2", "8/2"), ("4/2-4", "8/2-8")
"""Arms of the study of motion: positive and negative score alike, apart, and apart until t = 0.05."""


@dataclass(frozen=True)
class Claim:
    """One claim with its evidence, as its page shows it."""

    key: str
    """`a` to `d`."""
    title: str
    paper: str
    """Where the paper says it."""
    judged: Judged
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    notes: tuple[str, ...]
    charts: tuple[Chart, ...] = ()


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
        "d": lambda: by_source({arm: [sources_of(run) for run in of_arm(runs, arm)] for arm in (BASE, NONE, MORE)}),
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
        Part(f"that of {middle}", growth[middle]),
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
    ratios = [
        Line(
            name,
            at,
            [(t, float(v)) for t, v in zip(TIMES, curves[at] / curves[0], strict=True)],
            mark=over_seeds(parting[name], CONFIDENCE).value,
        )
        for at, name in enumerate(coarser, start=1)
    ]
    t = Axis(0, 1, "t (0 noise, 1 data)")
    tops = [max(value for line in some for _, value in line.points) for some in (lines, ratios)]
    charts = (
        Chart("Mean squared error of held-out clips", "Loss over t by scale", t, Axis(0, 1.05 * tops[0]), lines),
        Chart(f"In units of {finest}", "Ratio over t by scale", t, Axis(0, 1.05 * tops[1]), ratios),
    )
    notes = (
        "Every scale sees the same held-out clips from the same noises; a dotted line stands where a scale parts.",
    )
    title = "The loss of a scale parts from the finest's as t grows, the coarsest first"
    return Claim("a", title, "Figure 3", judge(parts), ("figure", *coarser), rows, notes, charts)


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
    values = {arm: over_seeds(score[arm], CONFIDENCE).value for arm in order}
    margin = 0.1 * (max(values.values()) - min(values.values())) or 0.1
    points = sorted((cost[arm], values[arm]) for arm in arms)
    chart = Chart(
        "Score over cost",
        "Score over cost: " + "; ".join(f"{arm} {values[arm]:.3g} at {cost[arm]:.3g}" for arm in order),
        Axis(0, 1.05 * max(cost.values()), "cost, of the finest scale alone"),
        Axis(min(values.values()) - margin, max(values.values()) + margin),
        [
            Line("each scale alone", 0, points, dots=points),
            Line("combined", 1, [], dots=[(cost["combined"], values["combined"])]),
        ],
    )
    title = "Combining the scales from coarse to fine is as good as the finest alone, and costs less"
    return Claim("b", title, "Table 2", judge(parts), ("figure", *order), rows, (_SCORE,), (chart,))


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
    )
    title = "Measured speed follows the difference of positive and negative motion score more than their level"
    return Claim("c", title, "Table 3", judge(parts), ("figure", *order), rows, notes)


def by_source(arms: Mapping[str, Sequence[Sourced]]) -> Claim:
    """(d) Multi-source training: system prompts, best subset, fine-tuning, share of synthetic clips."""
    base = arms[BASE]
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
        f"The best subset found was {PLANTED} with {hits} of {len(base)} seeds; what could not be told apart from the "
        f"best: {'; '.join(', '.join(one.best_set) for one in base)}.",
    ]
    both = min(len(arms[NONE]), len(arms[MORE]))
    if both:
        # Runs of one seed begin with the same weights and noises.
        more, none = ([one.before for one in arms[arm][:both]] for arm in (MORE, NONE))
        parts.append(
            Part("what 59 % of synthetic clips in training add to none", _differences(tuple(more), tuple(none)))
        )
    else:
        notes.append("The runs of other shares of synthetic clips are not there: nothing is said of them.")
    rows = [
        [Cell(f"under {name}", "trained on all"), _row([one.sources[name] for one in base])]
        for name in (PLANTED, *others)
    ]
    rows += [
        [Cell("before fine-tuning", "on other prompts, under the chosen source's"), _row([one.before for one in base])],
        [Cell("after fine-tuning", "the same"), _row([one.after for one in base])],
    ]
    rows += [
        [
            Cell(f"before fine-tuning, {arm}", "share of synthetic clips in training"),
            _row([one.before for one in arms[arm]]),
        ]
        for arm in (NONE, MORE)
        if arms[arm]
    ]
    title = (
        "System prompts tell sources apart, the best subset is the planted one, fine-tuning on it and more of it help"
    )
    return Claim("d", title, "sections 3.3 and 4", judge(parts), ("score", "value"), rows, (*notes, _SCORE))


_SCORE = (
    "Score: mean of the shares of clips whose colour, shape and direction are as asked. Intervals of figures hold at "
    "95 % for other clips and seeds, each alone; below them the seeds."
)


def _differences(a: Sequence[Estimate], b: Sequence[Estimate]) -> tuple[Estimate, ...]:
    return tuple(minus(one, other) for one, other in zip(a, b, strict=True))


def _figures(seeds: Sequence[Studied], order: Sequence[str]) -> list[list[Cell]]:
    meaning = seeds[0].content["meaning"]
    return [
        [Cell(name, meaning.get(name, "")), *(_row([one.figures[arm][name] for one in seeds]) for arm in order)]
        for name in seeds[0].content["figures"]
    ]


def _cells(values: Mapping[str, Sequence[Estimate]], names: Sequence[str]) -> list[Cell]:
    return [_row(values[name]) for name in names]


def _row(seeds: Sequence[Estimate]) -> Cell:
    return _cell(over_seeds(seeds, CONFIDENCE), [one.value for one in seeds])


def _cell(found: Interval, seeds: Sequence[float]) -> Cell:
    return Cell(figure(found.value), f"{interval(found.low, found.high)} seeds {', '.join(map(figure, seeds))}")


def _seconds(seeds: Sequence[Studied], arm: str) -> Cell:
    times = [one.content["arms"][arm]["seconds_per_clip"] for one in seeds]
    return Cell("–" if None in times else duration(sum(times) / len(times)))


def _told(found: Interval) -> str:
    return f"{figure(found.value, sign=True)} {interval(found.low, found.high, sign=True)}"
