"""Transparent pictures as they are shown: over white. The colours that they hide are noise, or black."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

WHITE = 255


def alpha_of(frame: av.VideoFrame) -> NDArray[np.uint8] | None:
    """How opaque each pixel [H, W] of a decoded frame is, 0 to 255; None if all are."""
    # A palette's entries have alphas, which no component of the format tells of.
    if frame.format.name != "pal8" and not any(part.is_alpha for part in frame.format.components):
        return None
    alpha: NDArray[np.uint8] = frame.to_ndarray(format="rgba")[..., 3]
    return None if bool((alpha == WHITE).all()) else alpha


def over_white(image: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """An image [H, W, 3] laid over white; as it is if `alpha` [H, W] is None."""
    if alpha is None:
        return image
    opaque = alpha.astype(np.uint16)[..., None]
    mixed: NDArray[np.uint8] = ((image * opaque + WHITE * (WHITE - opaque) + WHITE // 2) // WHITE).astype(np.uint8)
    return mixed
