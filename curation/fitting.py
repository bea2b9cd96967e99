"""Resizing of decoded frames where they are decoded, one by one: neither a process nor a pipe ever holds a large clip.

A fit goes to the decoding process as a name and a size. It is given the function itself, so that whoever asks for one
imports it: its code then counts as theirs, and not as that of all who decode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fit:
    """What becomes of every frame."""

    function: Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[Any]]
    """Of our own, at the top level of its module: frames [T, H, W, 3] and `size` to images [T, h, w, C] of uint8 or
    float32, each by itself."""
    size: tuple[int, int]
    """As the function takes it."""

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[Any]:
        """One frame [H, W, 3] to [h, w, C]."""
        fitted: NDArray[Any] = self.function(frame[None], self.size)[0]
        return fitted

    def to_json(self) -> dict[str, Any]:
        """The function by its name, and the size."""
        return {"function": f"{self.function.__module__}:{self.function.__qualname__}", "size": list(self.size)}
