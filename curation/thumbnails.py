"""Thumbnails: which frames of a clip to look at, and small JPEG pictures of them as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.film_frames import Track

_QUALITY = 75


@dataclass(frozen=True)
class Thumbnail:
    """One frame."""

    uri: str
    """`data:image/jpeg;base64,...`."""
    width: int
    height: int


def thumbnail_times(row: Mapping[str, Any]) -> list[float]:
    """When a probed clip shows its first, middle and last frame, in seconds from its start; 0 of an image."""
    if row["media"] == "image":
        return [0.0]
    end, interval = row["duration_s"], Track.parse(row["track"]).interval_s
    return sorted({0.0, max(0.0, (end - interval) / 2), max(0.0, end - interval)})


def thumbnails(frames: NDArray[np.uint8], side: int) -> tuple[Thumbnail, ...]:
    """Shrink frames [T, H, W, 3] (RGB) to at most `side` pixels in width and height; small ones stay as they are.

    The same frames give the same bytes with one build of the libraries.
    """
    return tuple(_thumbnail(frame, side) for frame in frames)


def _thumbnail(frame: NDArray[np.uint8], side: int) -> Thumbnail:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame))
    scale = min(1.0, side / max(image.size))
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{encoded}", image.width, image.height)
