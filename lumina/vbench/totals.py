"""Total score of VBench from its sixteen dimensions.

quality  = sum_i w_i norm_i / sum_i w_i over 7 dimensions, semantic likewise over 9, total = (4 quality + semantic) / 5,
norm = (x - min) / (max - min), not clipped (VBench, `scripts/cal_final_score.py`; checked against the paper's Tables
1 and 4). Where the official script takes 0 for a dimension that is missing, which is below what the worst clip gets,
this one refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lumina.vbench.dimensions import DIMENSIONS, Group

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


class MissingDimensionsError(ValueError):
    """A total was asked of a set with gaps."""


@dataclass(frozen=True)
class Totals:
    """Aggregated scores, about 0..1."""

    quality: float
    semantic: float
    total: float


def group_score(scores: Mapping[str, float], group: Group) -> float:
    """Weighted mean of a group's normalised scores.

    Args:
        scores: dimension to raw score, 0..1 as the official JSON has it.
        group: which dimensions.

    Raises MissingDimensionsError naming the dimensions that are absent or not a number.
    """
    members = [dimension for dimension in DIMENSIONS.values() if dimension.group == group]
    gaps = [member.name for member in members if not math.isfinite(scores.get(member.name, math.nan))]
    if gaps:
        raise MissingDimensionsError(f"no {group} score without {', '.join(gaps)}: score them, or compare dimensions")
    total = sum(member.weight * member.normalised(scores[member.name]) for member in members)
    return total / sum(member.weight for member in members)


def totals(scores: Mapping[str, float]) -> Totals:
    """Quality, semantic and total score of a complete set; raises as `group_score`."""
    quality, semantic = group_score(scores, "quality"), group_score(scores, "semantic")
    total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return Totals(quality, semantic, total)
