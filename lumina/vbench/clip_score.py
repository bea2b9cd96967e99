"""Reducer of a dimension: per-clip sums whose ratio over all clips is the dimension's score.

Every official reduction is sum(total) / sum(count) over clips, whether it is a mean over clips (count 1), over frames
or over pairs of frames; a clip with count 0 has no say (colour: the object was never seen). So a bootstrap over prompts
needs these two numbers of a clip, and the official quirk of each dimension stays inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ClipScore:
    """What one clip adds to its dimension."""

    total: float
    """Sum over what is counted."""
    count: int
    """Clips (1), frames or pairs of frames; 0 is a clip that the dimension leaves out."""

    @property
    def value(self) -> float | None:
        """The clip's own score, None where it is left out."""
        return self.total / self.count if self.count else None


def of_frames(values: ArrayLike) -> ClipScore:
    """A clip that weighs as much as it has frames (or pairs)."""
    numbers = np.asarray(values, dtype=np.float64)
    return ClipScore(float(numbers.sum()), len(numbers))


def of_clip(values: ArrayLike) -> ClipScore:
    """A clip that weighs one, whatever its length; raises ValueError without a frame."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        raise ValueError("expected the figures of at least one frame")
    return ClipScore(float(numbers.mean()), 1)


def dimension_score(clips: Sequence[ClipScore]) -> float:
    """Score of a dimension; raises ValueError where no clip counts, in whose place the official code divides by 0."""
    count = sum(clip.count for clip in clips)
    if not count:
        raise ValueError(f"none of {len(clips)} clips can be scored: the dimension has no score")
    return math.fsum(clip.total for clip in clips) / count


def prompt_sums(clips: Sequence[ClipScore], prompts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Totals and counts [P] of each prompt, in order of first appearance: what a bootstrap over prompts draws from."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    index = [numbers[prompt] for prompt in prompts]
    totals, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    np.add.at(totals, index, [clip.total for clip in clips])
    np.add.at(counts, index, [clip.count for clip in clips])
    return totals, counts
