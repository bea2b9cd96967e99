"""KL divergence of class probabilities, as audioldm_eval and av-benchmark take it of AudioSet's logits.

    softmax:  KL_i = sum_c p_ic (log p_ic - log(q_ic + 1e-6)),  p = softmax(true logits), q = softmax(generated)
    sigmoid:  the same sum with p and q each the sigmoid of its logits

The figure is the mean over clips. KL_PANNs is the softmax form of PANNs' 527 logits, KL_PaSST of PaSST's; of another
network's logits it has to have another name.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Convention = Literal["softmax", "sigmoid"]
_EPS = 1e-6
"""Added to a generated sound's probability, as released: a class that it rules out costs 13.8 at most."""


def kl_divergence(
    true: NDArray[np.floating], made: NDArray[np.floating], convention: Convention = "softmax"
) -> NDArray[np.float64]:
    """KL of each clip, [n], of logits [n, classes]; ValueError for unlike shapes. May be slightly below zero."""
    if true.shape != made.shape or true.ndim != 2:
        raise ValueError(f"logits must both be [n, classes], got {list(true.shape)} and {list(made.shape)}")
    if convention == "softmax":
        log_p, log_q = log_softmax(true), log_softmax(made)
    else:
        log_p, log_q = (-np.logaddexp(0.0, -logits.astype(np.float64)) for logits in (true, made))
    p, q = np.exp(log_p), np.exp(log_q)
    divergence: NDArray[np.float64] = np.where(p > 0, p * (log_p - np.log(q + _EPS)), 0.0).sum(1)
    return divergence


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithms of the probabilities of logits [n, classes]."""
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
