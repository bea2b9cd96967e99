"""Comparison of the arms of a sweep: means over seeds, with intervals that hold for all pairs of arms at once.

By what an arm is judged `pipelines.reports.sweep_judged` says. Two kinds of noise stand between arms. The units that
they are judged on, such as prompts: a paired bootstrap, simultaneous over all pairs (`lumina.evaluation.subsets`). The
seeds of training: the spread between runs of one arm, pooled over the arms, with Student's t and Bonferroni's
correction over the pairs. The two bounds are put together by the method of variance estimates recovery (Zou and Donner
2008): the distances from the estimate are added in squares. Runs of one arm differ by noise of measurement too, so the
interval is rather too wide than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.engine.store.store import Store
from pipelines.engine.store.sweep_record import SweepRecord
from pipelines.reports.sweep_judged import SCORE, Judged, judge

if TYPE_CHECKING:
    from lumina.evaluation.metrics import Estimate


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
    if not done:
        return None
    judged = judge(store, done)
    return {"problem": judged} if isinstance(judged, str) else _compared(judged)


def _compared(judged: Judged) -> dict[str, Any]:
    import numpy as np

    from lumina.evaluation.subsets import compare, holm
    from lumina.evaluation.summary import interval_json

    found, confidence = judged.figures, judged.confidence
    names = [name for name in found[0] if name != SCORE and all(name in one for one in found)]
    of_arm: dict[str, list[int]] = {}
    for at, run in enumerate(judged.runs):
        of_arm.setdefault(run.arm, []).append(at)
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
        [run.title for run in judged.runs],
        np.array([one[SCORE].value for one in found]),
        np.stack([one[SCORE].draws for one in found]),
        units,
        confidence,
        found[0][SCORE].values,
    )
    below_run = {one.group: interval_json(one) for one in singles.differences}
    return {
        "kind": judged.kind,
        "stage": judged.stage,
        "units": judged.units,
        "samples": judged.samples,
        "confidence": confidence,
        "score": dict(judged.weights),
        "pairs": pairs,
        "noise": {"sd": round(noise.sd, 9), "freedom": noise.freedom} if noise.freedom else None,
        "arms": ranked,
        "runs": [
            {
                "title": run.title,
                "arm": run.arm,
                "seed": run.seed,
                "score": interval_json(singles.intervals[run.title]),
                "below_best": below_run.get(run.title),
            }
            for run in judged.runs
        ],
        "metrics": {
            name: {
                "meaning": judged.meaning.get(name, ""),
                "counted": name in judged.counted,
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
