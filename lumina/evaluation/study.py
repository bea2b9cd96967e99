"""Study of a checkpoint: sampler settings side by side, what each costs, and what differs by more than chance.

All arms are judged on the same prompts from the same noises, so a bootstrap over prompts pairs them. Every arm has
intervals that hold for all arms at once (Bonferroni), and every difference from the reference arm has bounds that hold
for all arms at once (largest |T|, see `lumina.evaluation.subsets.contrasts`): both for each metric on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lumina.evaluation.metrics import METRICS, Estimate, composite
from lumina.evaluation.study_arms import patch_name
from lumina.evaluation.subsets import Contrast, Interval, contrasts
from lumina.evaluation.summary import estimates, interval_json, pivot
from lumina.files import read_json
from lumina.flow_matching.schedules import SamplerConfig

STUDY_FILE, TIMES_FILE = "study.json", "times.json"
SCHEMA = "lumina-study/1"
SCORE = "score"
"""The figure that is the weighted mean of others."""


@dataclass(frozen=True)
class ArmCost:
    """What one clip of an arm takes."""

    flops: int
    """Operations of the transformer, from arithmetic; step caching is not taken into account."""
    relative: float
    """Of the same number of the evaluation's own steps at the finest scale alone."""
    evaluations: Mapping[str, int]
    """By scale; a guided step takes two."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        shown = {name: self.evaluations[name] for name in sorted(self.evaluations)}
        return {"flops": self.flops, "relative": round(self.relative, 9), "evaluations": shown}


@dataclass(frozen=True)
class Statistics:
    """How figures become intervals."""

    seed: int = 0
    resamples: int = 10_000
    confidence: float = 0.95


def analyse(
    rows: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    score: Mapping[str, float],
    reference: str,
    statistics: Statistics,
) -> dict[str, dict[str, Any]]:
    """Figures of every arm, and how it differs from the reference.

    Args:
        rows: of all clips: arm, prompt_id, sample and a column for each per-clip value.
        metrics: keys of METRICS.
        score: metric to weight of the figure `score`; empty for none.
        reference: an arm.
        statistics: seed, resamples and confidence.

    Returns:
        By arm: `metrics` and, for all but the reference, `difference`, each by figure.

    Raises:
        ValueError: clips are missing, or a metric applies to none of them.
    """
    arms = list(dict.fromkeys(str(row["arm"]) for row in rows))
    found: dict[str, dict[str, Estimate]] = {}
    for arm in arms:
        own = pivot([row for row in rows if row["arm"] == arm], metrics, f"arm {arm}")
        found[arm] = estimates(own, metrics, statistics.seed, statistics.resamples)
        if score:
            found[arm] = {SCORE: composite(found[arm], score), **found[arm]}
    alone = 1 - (1 - statistics.confidence) / len(arms)
    result: dict[str, dict[str, Any]] = {
        arm: {"metrics": {name: interval_json(one.interval(alone)) for name, one in figures.items()}}
        for arm, figures in found.items()
    }
    for arm in arms:
        if arm != reference:
            result[arm]["difference"] = {}
    for name in found[reference]:
        every = [found[arm][name] for arm in arms]
        values, draws = np.array([one.value for one in every]), np.stack([one.draws for one in every])
        units = min(one.units for one in every)
        for one in contrasts(arms, values, draws, units, reference, statistics.confidence, every[0].values):
            result[one.group]["difference"][name] = _contrast_json(one)
    return result


def _contrast_json(one: Contrast) -> dict[str, Any]:
    ends = interval_json(Interval(one.value, one.low, one.high))
    return {**ends, "p": round(one.p, 9), "significant": one.significant}


def meanings(metrics: Sequence[str], score: Mapping[str, float]) -> dict[str, str]:
    """What each figure is, in words."""
    words = " + ".join(f"{weight:g} {name}" for name, weight in sorted(score.items()))
    return {
        **({SCORE: f"weighted mean: {words}"} if score else {}),
        **{name: METRICS[name].meaning for name in metrics},
    }


def arm_cost(
    network: Any, size: tuple[int, int, int], sampler: SamplerConfig, base: SamplerConfig, text_tokens: int
) -> ArmCost:
    """Count an arm's operations.

    Args:
        network: its `NextDiTConfig`.
        size: latent frames, rows and columns.
        sampler: of the arm.
        base: whose steps at the finest scale alone cost 1.
        text_tokens: of a prompt, and of the negative one.

    Raises:
        ValueError: a scale does not fit the size.
    """
    import math

    from lumina.cost import sampling_cost

    finest = min(network.patch_sizes, key=lambda patch: (math.prod(patch), patch))
    whole = base.model_copy(update={"patches": ((0.0, finest),)})
    unit = sampling_cost(network, size, whole, text_tokens, text_tokens)
    own = sampling_cost(network, size, sampler, text_tokens, text_tokens)
    evaluations = {patch_name(patch): count for patch, count in own.evaluations.items()}
    return ArmCost(own.flops, own.flops / unit.flops, evaluations)


def read_study(folder: Path) -> dict[str, Any]:
    """The study in a folder, with the measured `seconds_per_clip` of each arm where they are known.

    Raises:
        OSError: there is none.
        ValueError: the file is no study.
    """
    content = read_json(folder / STUDY_FILE)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{folder / STUDY_FILE} is no study ({SCHEMA})")
    times = read_json(folder / TIMES_FILE) if (folder / TIMES_FILE).is_file() else {}
    for name, arm in content["arms"].items():
        arm["seconds_per_clip"] = times.get("seconds_per_clip", {}).get(name)
    return content


def headline(content: Mapping[str, Any]) -> str:
    """The figure that arms are ranked by: the score, or the first metric where there is none."""
    return str(content["figures"][0])


def pareto_front(content: Mapping[str, Any], figure: str) -> tuple[str, ...]:
    """Arms that no other one beats at the same cost or less, by values and not by intervals; the cheapest first."""
    arms = content["arms"]
    order = sorted(arms, key=lambda arm: (arms[arm]["cost"]["relative"], -arms[arm]["metrics"][figure]["value"], arm))
    front: list[str] = []
    for arm in order:
        if not front or arms[arm]["metrics"][figure]["value"] > arms[front[-1]]["metrics"][figure]["value"]:
            front.append(arm)
    return tuple(front)
