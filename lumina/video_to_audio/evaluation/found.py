"""What a comparison of two checkpoints found, in plain sentences, also where that is nothing."""

from __future__ import annotations

from collections.abc import Mapping

from lumina.evaluation.metrics import Estimate

_HEADS = ("onset_f1_50ms", "class_acc_all", "av_align_v2025_excess")
"""The figures that the sentences are about: when, what, and both without known events. Larger is better."""


def what_is_found(
    differences: Mapping[str, tuple[Estimate, Estimate, Estimate]],
    before: str,
    after: str,
    clips: int,
    confidence: float,
) -> str:
    """Sentences on the figures that decide: which side is better, or that the clips do not tell.

    Args:
        differences: figure to before, after, and after minus before.
        before: name of the one side.
        after: name of the other.
        clips: that both were measured on.
        confidence: of each interval.
    """
    sentences: list[str] = []
    better: list[str] = []
    worse: list[str] = []
    untold: list[str] = []
    for name in (one for one in _HEADS if one in differences):
        first, second, change = differences[name]
        found = change.interval(confidence)
        (better if found.low > 0 else worse if found.high < 0 else untold).append(name)
        sentences.append(
            f"{name} is {second.value:.3f} after {first.value:.3f}, a difference of {change.value:+.3f} "
            f"[{found.low:+.3f}, {found.high:+.3f}]"
        )
    head = f"{after} against {before} on the same {clips} clips and noises ({confidence:.0%} intervals, each alone)"
    verdicts = [
        *([f"{after} is better in {', '.join(better)}"] if better else []),
        *([f"{after} is worse in {', '.join(worse)}"] if worse else []),
        *([f"no difference is shown in {', '.join(untold)}"] if untold else []),
    ]
    if not sentences:
        return f"{head}: no figure applies to both."
    return f"{head}: {'; '.join(sentences)}. So {'; '.join(verdicts)}."
