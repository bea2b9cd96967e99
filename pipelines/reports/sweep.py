"""Comparison of the arms of a sweep: means over seeds, with intervals that hold for all pairs of arms at once.

An arm is judged by its fine-tuned model, as `evaluate_final` measured it, and by the score that `choose` goes by. Two
kinds of noise stand between arms. The prompts: a paired bootstrap, simultaneous over all pairs
(`lumina.evaluation.subsets`). The seeds of training: the spread between runs of one arm, pooled over the arms, with
Student's t and Bonferroni's correction over the pairs. The two bounds are put together by the method of variance
estimates recovery (Zou and Donner 2008): the distances from the estimate are added in squares. Runs of one arm differ
by noise of measurement too, so the interval is rather too wide than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from lumina.formats import counted, figure, interval
from pipelines.compare.runs import read_side
from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import ArmRun, SweepRecord
from pipelines.reports.evaluations import Evaluated, read_evaluations
from pipelines.terminal import Text, in_line, make_table

if TYPE_CHECKING:
    from lumina.evaluation.metrics import Estimate

Figure = Mapping[str, float | None]
SCORE = "score"


@dataclass(frozen=True)
class _Judged:
    """A run that has an evaluation."""

    run: ArmRun
    evaluated: Evaluated
    weights: Mapping[str, float]
    """Of the score."""


@dataclass(frozen=True)
class _Noise:
    """What differs between runs of one arm."""

    sd: float
    """Of a single run, pooled over the arms."""
    freedom: int
    """Degrees of freedom; 0 where no arm has two seeds."""

    def reach(self, pairs: int, confidence: float, *counts: int) -> float:
        """Half the width of an interval of a mean, or of a difference of means, over so many runs each."""
        if not self.freedom:
            return 0.0
        from scipy.special import stdtrit

        t = float(stdtrit(self.freedom, 1 - (1 - confidence) / 2 / max(1, pairs)))
        return t * self.sd * math.sqrt(sum(1 / count for count in counts))


def compare_arms(store: Store, record: SweepRecord) -> dict[str, Any] | None:
    """Plain data for the record; with `problem` where the arms cannot be compared, None while no run is done.

    Raises:
        StoreError: an output cannot be read.
    """
    done = [run for run in record.runs if run.state == "done" and run.run is not None]
    judged = [one for run in done if (one := _judged(store, run)) is not None]
    if not done:
        return None
    if len(judged) < len(done):
        return {"problem": "no run was evaluated" if not judged else "only some of the runs were evaluated"}
    first = judged[0]
    drawn = [one.evaluated.draws(*_draws(first.evaluated)) for one in judged]
    if any(design != drawn[0][0] for design, _ in drawn):
        return {
            "problem": "the runs were judged on different prompts or numbers of clips, so they cannot be paired: "
            "evaluate.suite of kind captions takes them from the clips that were kept; prompts of a list stay"
        }
    if any(one.weights != first.weights for one in judged):
        return {"problem": "the runs go by different scores (choose.score), so no number stands for all of them"}
    found = [dict(estimates) for _, estimates in drawn]
    names = [name for name in found[0] if all(name in one for one in found)]
    for estimates, score in zip(found, _scores(judged, found), strict=True):
        estimates[SCORE] = score
    return _compared(judged, found, names)


def _judged(store: Store, run: ArmRun) -> _Judged | None:
    """The fine-tuned model, or where a run ends earlier the chosen system prompt."""
    found = read_evaluations(read_side(store, store.get_run(run.run)))
    last = found[0] if found else None
    if last is None or last.selection is None:
        return None
    chosen = [one for one in last.sources if one.title == last.selection.chosen]
    of = last.final[1] if last.final else next(iter(chosen), None)
    return None if of is None else _Judged(run, of, last.selection.rule["score"])


def _draws(one: Evaluated) -> tuple[int, int]:
    return int(one.config.get("seed", 0)), int(one.config.get("resamples", 10_000))


def _scores(judged: Sequence[_Judged], found: Sequence[Mapping[str, Estimate]]) -> list[Estimate]:
    """The weighted mean of each run, of unlike figures in standard deviations over all runs, as `choose` has it."""
    from lumina.evaluation.metrics import METRICS, composite
    from lumina.evaluation.standard_scores import are_unlike, scale_of
    from lumina.vbench.clip_rows import are_unlike as are_unlike_figures
    from lumina.vbench.clip_rows import read_clip_rows

    weights = judged[0].weights
    if all(name in METRICS for name in weights):
        columns = {name: METRICS[name].column for name in weights if are_unlike(weights)}
        scales = {
            name: scale_of([one.evaluated.results.columns[column] for one in judged])
            for name, column in columns.items()
        }
    else:
        rows = [read_clip_rows(one.evaluated.rows, one.evaluated.figures) for one in judged]
        scales = {
            name: scale_of([one.prompt_values(name) for one in rows]) for name in weights if are_unlike_figures(weights)
        }
    return [
        composite({name: scales[name].standardised(one[name]) if scales else one[name] for name in weights}, weights)
        for one in found
    ]


def _compared(
    judged: Sequence[_Judged], found: Sequence[Mapping[str, Estimate]], names: Sequence[str]
) -> dict[str, Any]:
    import numpy as np

    from lumina.evaluation.subsets import compare, holm
    from lumina.evaluation.summary import interval_json

    content = judged[0].evaluated.content
    confidence = float(content.get("confidence", 0.95))
    of_arm: dict[str, list[int]] = {}
    for at, one in enumerate(judged):
        of_arm.setdefault(one.run.arm, []).append(at)
    arms, pairs = list(of_arm), math.comb(len(of_arm), 2)
    counts = {arm: len(runs) for arm, runs in of_arm.items()}
    means = {
        name: {arm: _mean([found[at][name] for at in runs]) for arm, runs in of_arm.items()} for name in (SCORE, *names)
    }
    noises = {
        name: _noise([[found[at][name].value for at in runs] for runs in of_arm.values()]) for name in (SCORE, *names)
    }
    score, noise = means[SCORE], noises[SCORE]
    units = min(one.units for one in score.values())
    compared = compare(
        arms,
        np.array([score[arm].value for arm in arms]),
        np.stack([score[arm].draws for arm in arms]),
        units,
        confidence,
        score[arms[0]].values,
    )
    best, gaps = compared.best, {one.group: one for one in compared.differences}
    ranked = []
    for arm in (best, *gaps):
        gap = gaps.get(arm)
        reach = noise.reach(pairs, confidence, counts[best], counts[arm]) if gap else 0.0
        below = None if gap is None else _widened(gap.value, gap.low, gap.high, reach)
        ranked.append(
            {
                "arm": arm,
                "runs": counts[arm],
                "score": _own(score[arm], noise.reach(1, confidence, counts[arm]), confidence),
                "spread": _spread([found[at][SCORE].value for at in of_arm[arm]]),
                "below_best": below,
                "below_best_prompts": None if gap is None else interval_json(gap),
                "worse": below is not None and below["low"] is not None and below["low"] > 0,
            }
        )
    claims = [(name, arm) for name in names for arm in arms if arm != best]
    adjusted = dict(zip(claims, holm([_p(means[name][best], means[name][arm]) for name, arm in claims]), strict=True))

    def differs(name: str, arm: str) -> bool:
        least = noises[name].reach(len(claims), confidence, counts[best], counts[arm])
        far = abs(means[name][arm].value - means[name][best].value) > least
        return adjusted.get((name, arm), 1.0) <= 1 - confidence and far

    singles = compare(
        [one.run.title for one in judged],
        np.array([one[SCORE].value for one in found]),
        np.stack([one[SCORE].draws for one in found]),
        units,
        confidence,
        found[0][SCORE].values,
    )
    below_run = {one.group: interval_json(one) for one in singles.differences}
    return {
        "stage": judged[0].evaluated.stage,
        "prompts": content.get("prompts"),
        "samples": content.get("samples"),
        "confidence": confidence,
        "score": dict(judged[0].weights),
        "pairs": pairs,
        "noise": {"sd": round(noise.sd, 9), "freedom": noise.freedom} if noise.freedom else None,
        "arms": ranked,
        "runs": [
            {
                "title": one.run.title,
                "arm": one.run.arm,
                "seed": one.run.seed,
                "score": interval_json(singles.intervals[one.run.title]),
                "below_best": below_run.get(one.run.title),
            }
            for one in judged
        ],
        "metrics": {
            name: {
                "meaning": content.get("meaning", {}).get(name, ""),
                "arms": {
                    arm: {
                        **_own(means[name][arm], noises[name].reach(1, confidence, counts[arm]), confidence),
                        "spread": _spread([found[at][name].value for at in of_arm[arm]]),
                        "differs": differs(name, arm),
                    }
                    for arm in (best, *gaps)
                },
            }
            for name in names
        },
        "claims": len(claims),
    }


def _mean(runs: Sequence[Estimate]) -> Estimate:
    """Over the seeds of an arm, resample by resample: all runs have the same prompts."""
    import numpy as np

    from lumina.evaluation.metrics import Estimate

    value = float(np.mean([one.value for one in runs]))
    return Estimate(value, np.mean([one.draws for one in runs], axis=0), min(one.units for one in runs), runs[0].values)


def _noise(arms: Sequence[Sequence[float]]) -> _Noise:
    freedom = sum(len(values) - 1 for values in arms)
    squares = sum((value - sum(values) / len(values)) ** 2 for values in arms for value in values)
    return _Noise(math.sqrt(squares / freedom) if freedom else 0.0, freedom)


def _spread(values: Sequence[float]) -> float | None:
    """Between the seeds of an arm, from the least to the largest; None of one."""
    return round(max(values) - min(values), 9) if len(values) > 1 else None


def _widened(value: float, low: float, high: float, reach: float) -> dict[str, float | None]:
    ends = {
        "value": value,
        "low": value - math.hypot(value - low, reach),
        "high": value + math.hypot(high - value, reach),
    }
    return {key: round(end, 9) if math.isfinite(end) else None for key, end in ends.items()}


def _own(one: Estimate, reach: float, confidence: float) -> dict[str, float | None]:
    """A mean alone, with both kinds of noise, inside the range of its values."""
    of_prompts = one.interval(confidence)
    found = _widened(one.value, of_prompts.low, of_prompts.high, reach)
    if one.values is not None:
        low, high = one.values
        found |= {key: min(max(end, low), high) for key in ("low", "high") if (end := found[key]) is not None}
    return found


def _p(a: Estimate, b: Estimate) -> float:
    import numpy as np

    from lumina.evaluation.subsets import compare

    values, draws = np.array([a.value, b.value]), np.stack([a.draws, b.draws])
    return compare(["a", "b"], values, draws, min(a.units, b.units), value_range=a.values).differences[0].p


def answer(record: SweepRecord) -> str:
    """The headline of a sweep."""
    failed = sum(run.state == "failed" for run in record.runs)
    after = f"; {counted(failed, 'run')} failed" if failed else ""
    found = record.comparison
    if found is None:
        return f"No run is done yet{after}"
    if "problem" in found:
        done = sum(run.state == "done" for run in record.runs)
        return f"{done} of {counted(len(record.runs), 'run')} done, not compared{after}"
    best, *others = found["arms"]
    head = f"{best['arm']} scores highest: {figure(best['score']['value'])}"
    worse = [one["arm"] for one in others if one["worse"]]
    if not others:
        return f"{head}; it is the only arm that is done{after}"
    if not worse:
        return f"{head}, but no other arm can be told apart from it{after}"
    return f"{head}; {len(worse)} of {counted(len(others), 'other arm')} significantly worse{after}"


def noise_text(found: Mapping[str, Any]) -> str:
    """What the seeds tell of noise, in a sentence."""
    noise = found["noise"]
    if noise is None:
        return (
            "Every arm has one run: the intervals are of prompts alone, and what another seed of training would change "
            "is not in them; --seeds 0,1 measures it."
        )
    largest = max(one["spread"] or 0.0 for one in found["arms"])
    gaps = [abs(a["score"]["value"] - b["score"]["value"]) for a, b in combinations(found["arms"], 2)]
    beside = f"; arms differ by {figure(max(gaps))} at most" if gaps else ""
    return (
        f"Runs of one arm that differ by the seed alone lie up to {figure(largest)} apart (standard deviation "
        f"{figure(noise['sd'])}, {noise['freedom']} degrees of freedom){beside}. The intervals of arms hold for other "
        "prompts and other seeds."
    )


def verdict(one: Mapping[str, Any]) -> str:
    """What is said of an arm beside the best one."""
    if one["below_best"] is None:
        return "highest"
    if one["worse"]:
        return "significantly worse"
    of_prompts = one["below_best_prompts"]["low"]
    if of_prompts is not None and of_prompts > 0:
        return "within the noise of seeds"
    return "cannot be told apart"


def comparison_view(record: SweepRecord) -> RenderableType:
    """The arms, best first, with what seeds make of them, and a line in bold."""
    found = record.comparison
    if found is None:
        return Text("")
    if "problem" in found:
        return Text(f"Not compared: {found['problem']}.", "yellow")
    table = make_table("~arm", ">score", ">between seeds", ">below the best", "")
    for one in found["arms"]:
        spread = "–" if one["spread"] is None else figure(one["spread"])
        table.add_row(in_line(one["arm"]), _cell(one["score"]), spread, _cell(one["below_best"], True), _verdict(one))
    return Group(table, Text(noise_text(found), "dim"), Text(answer(record), "bold"))


def _cell(found: Figure | None, sign: bool = False) -> Text:
    if found is None:
        return Text("")
    text = Text(figure(found["value"], sign))
    return text.append(f"  {interval(found['low'], found['high'], sign)}".rstrip(), "dim")


def _verdict(one: Mapping[str, Any]) -> Text:
    said = verdict(one)
    return Text(said, {"highest": "bold green", "significantly worse": "bold red"}.get(said, "dim"))
