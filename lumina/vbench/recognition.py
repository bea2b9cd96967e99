"""Recognition dimensions from given predictions: human action (classes) and scene (captions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from lumina.vbench.clip_score import ClipScore

_TOP, _LEAST = 5, 0.85


def scene(captions: Sequence[str], wanted: str) -> ClipScore:
    """Frames whose caption contains every word of the scene, as a part of any word ("alley" in "valley")."""
    words = wanted.split(" ")
    return ClipScore(float(sum(all(word in caption for word in words) for caption in captions)), len(captions))


def action_of(file: str) -> str:
    """Label that the official code reads from a file's name: after the last "person is ", up to the first "-"."""
    return PurePath(file).name.lower().split("-")[0].split("person is ")[-1].split("_")[0]


def human_action(logits: NDArray[np.float32], categories: Mapping[int, str], file: str) -> ClipScore:
    """Whether the action is among the five likeliest of Kinetics-400, each with a sigmoid of .85 or more.

    Args:
        logits: [400].
        categories: number to name.
        file: named "... person is ACTION-INDEX.mp4".
    """
    likelihood = 1.0 / (1.0 + np.exp(-logits.astype(np.float32)))
    likeliest = np.argsort(-likelihood, kind="stable")[:_TOP]
    # Rounded first, as the official code does: .84996 counts.
    named = [categories.get(int(number)) for number in likeliest if round(float(likelihood[number]), 4) >= _LEAST]
    return ClipScore(float(action_of(file) in named), 1)
