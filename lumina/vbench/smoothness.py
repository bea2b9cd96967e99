"""Motion smoothness: error of frames that an interpolation network predicts from their neighbours (VBench, same name).

Frames 0, 2, 4, ... go in, frames 1, 3, ... are predicted; score = (255 - mean |prediction - frame|) / 255.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smoothness(frames: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> float:
    """Score of one clip, 0..1.

    Args:
        frames: [T, H, W, 3].
        predicted: [(T - 1) // 2, H, W, 3] of frames 1, 3, ...; the last odd frame of an even T is not used.

    Raises ValueError for fewer than three frames, or another number of predictions.
    """
    pairs = (len(frames) - 1) // 2
    if pairs < 1:
        raise ValueError(f"motion smoothness needs three frames, the clip has {len(frames)}")
    if len(predicted) != pairs:
        raise ValueError(f"expected {pairs} predicted frames for {len(frames)} frames, got {len(predicted)}")
    truth = frames[1 : 2 * pairs : 2]
    both = zip(truth, predicted, strict=True)
    errors = [np.abs(frame.astype(np.int16) - guess).mean(dtype=np.float64) for frame, guess in both]
    return (255.0 - float(np.mean(errors))) / 255.0


def quantised(prediction: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A prediction in 0..1 as grey levels: clipped, then truncated, as the official code does."""
    return (np.clip(prediction, 0.0, 1.0) * 255.0).astype(np.uint8)
