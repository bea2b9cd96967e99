"""Inception score (Salimans et al. 2016, arXiv 1606.03498), as torch-fidelity and av-benchmark take it.

The clips are shuffled by seed 2020 and cut into ten splits. Of each split, with p_i the softmax of clip i's logits,

    IS = exp( mean_i sum_c p_ic (log p_ic - log mean_j p_jc) )

and the figures are the mean and the standard deviation (of a population) over the splits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lumina.video_to_audio.evaluation.kl import log_softmax

SPLITS, SEED = 10, 2020


def inception_score(logits: NDArray[np.floating], splits: int = SPLITS, seed: int = SEED) -> tuple[float, float]:
    """Mean and deviation over splits of the score of logits [n, classes], which is 1 to the number of classes.

    Raises ValueError for fewer clips than splits, where some would be empty.
    """
    if logits.ndim != 2 or len(logits) < splits:
        raise ValueError(f"an inception score of {splits} splits needs as many clips, got {list(logits.shape)}")
    # The legacy generator, for its permutation is the published one.
    order = np.random.RandomState(seed).permutation(len(logits))
    log_p = log_softmax(logits[order])
    scores = []
    for split in range(splits):
        part = log_p[split * len(log_p) // splits : (split + 1) * len(log_p) // splits]
        p = np.exp(part)
        # A class that no clip of the split has adds nothing.
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(p > 0, p * (part - np.log(p.mean(0))), 0)
        scores.append(np.exp(gain.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
