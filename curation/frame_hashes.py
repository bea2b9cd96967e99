"""Perceptual hashes of frames: what a clip looks like at fixed times, in numbers that survive an encoder.

A frame without its black bars is a small grey picture; of its cosine transform the signs of the 63 lowest frequencies
but the mean are bits, as in pHash. A crop has other signs, so the bits of the usual crops are kept too, and those of
the mirrored frame. Since simple pictures share their signs, thumbnails in colour tell what hashes cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

STEP_S, TIMES = 0.25, 9
"""Frames are looked at every quarter of a second of the first two: half of it is how far two copies that are shifted
against each other may be from the same times."""
ANCHORS = (0, 4)
"""Of these, the ones whose crops and mirror image are hashed: a copy that is shifted by a second shows one of them."""
SPANS = ((0.0, 1.0), (0.05, 0.95), (0.0, 0.9), (0.1, 1.0), (0.0, 0.95), (0.05, 1.0))
"""What a crop leaves of width or height: all, nine tenths at the middle or at an end, or what is halfway."""
CROPS = tuple(product(range(len(SPANS)), repeat=2))
"""(of the height, of the width), numbers of `SPANS`; the first is no crop."""
MIRROR = len(CROPS)
HASHED = (
    *((time, 0) for time in range(TIMES)),
    *((time, crop) for time in ANCHORS for crop in range(1, len(CROPS))),
    *((time, MIRROR) for time in ANCHORS),
)
"""(number of the time, kind) of each hash of a clip. Kind: number of the crop, 0 for the whole frame; `MIRROR`."""
SIDE = 16
"""Width and height of a thumbnail."""
_GREY, _LOW = 32, 8
_DARK, _LIT_SHARE, _MOST_BAR = 20, 0.01, 0.3
_PLAIN = 1.0
"""A frame whose waves are all weaker, in grey levels, has no picture: its signs would be the encoder's."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class HashedFrames:
    """What one clip looks like."""

    hashes: NDArray[np.uint64]
    """One for each of `HASHED`; 0 where the clip has ended, or shows nothing."""
    thumbnails: NDArray[np.uint8]
    """[T, 16, 16, 3], RGB, at as many of the times as the clip has."""
    inside_bars: float
    """Share of the frame that is inside its bars, in hundredths; what a bar may just touch is none of it."""


def squash(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] resized to (height, width), the aspect lost."""
    import cv2

    return np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in frames])


def hash_frames(frames: NDArray[np.uint8]) -> HashedFrames:
    """Hashes of the frames [T, H, W, 3] of one clip, RGB, at its first T times."""
    top, bottom, left, right = without_bars(frames)
    height, width = bottom - top, right - left
    grey = frames.astype(np.float32) @ _LUMA
    rows = [_low(top, height, span, grey.shape[1]) for span in SPANS]
    columns = [_low(left, width, span, grey.shape[2]) for span in SPANS]
    whole = rows[0] @ grey @ columns[0].T
    hashes = np.zeros(len(HASHED), np.uint64)
    for place, (time, kind) in enumerate(HASHED):
        if time >= len(frames):
            continue
        if kind == 0:
            waves = whole[time]
        elif kind == MIRROR:
            # Mirroring turns the sign of the frequencies that are odd from left to right.
            waves = whole[time] * np.where(np.arange(_LOW) % 2, -1, 1)
        else:
            y, x = CROPS[kind]
            waves = rows[y] @ grey[time] @ columns[x].T
        hashes[place] = _bits(waves)
    thumbnails = np.einsum(
        "yh,thwc,xw->tyxc",
        resampling(top, bottom, grey.shape[1], SIDE),
        frames.astype(np.float32),
        resampling(left, right, grey.shape[2], SIDE),
        optimize=True,
    )
    high, wide = (
        max(0.0, min(size, math.floor(end)) - math.ceil(start) - (start > 0) - (end < size)) / size
        for start, end, size in ((top, bottom, grey.shape[1]), (left, right, grey.shape[2]))
    )
    return HashedFrames(hashes, np.rint(thumbnails).astype(np.uint8), round(high * wide, 2))


def without_bars(frames: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """(top, bottom, left, right) of frames [T, H, W, 3] without bars: edges that are dark at all times, of up to 30 %.

    A picture that is dark beyond that has no bars. A bar ends within the first pixel that is not dark, as far in as
    that is darker than the next.
    """
    bright = frames.max(axis=-1)
    found = []
    for axes in ((0, 2), (0, 1)):
        profile = bright.mean(axis=axes)
        places = np.flatnonzero((bright > _DARK).mean(axis=axes) > _LIT_SHARE)
        size = len(profile)
        low, high = (float(places[0]), float(places[-1] + 1)) if len(places) > 1 else (0.0, float(size))
        if max(low, size - high) > _MOST_BAR * size:
            low, high = 0.0, float(size)
        if low:
            low += 1 - _share(profile[places[0]], profile[places[0] + 1])
        if high < size:
            high -= 1 - _share(profile[places[-1]], profile[places[-1] - 1])
        found += [low, high]
    return found[0], found[1], found[2], found[3]


def _share(edge: float, inside: float) -> float:
    return float(edge / inside) if edge < inside else 1.0


def resampling(low: float, high: float, size: int, to: int) -> NDArray[np.float32]:
    """Matrix [to, size] that averages `size` pixels from `low` to `high` to `to` by area."""
    edges = np.linspace(low, high, to + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(covered, 0)
    weights: NDArray[np.float32] = (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


@cache
def _cosines() -> NDArray[np.float32]:
    at = (np.arange(_GREY) + 0.5) / _GREY
    return np.cos(np.pi * np.arange(_LOW)[:, None] * at).astype(np.float32)


def _low(start: float, length: float, span: tuple[float, float], size: int) -> NDArray[np.float32]:
    return _cosines() @ resampling(start + span[0] * length, start + span[1] * length, size, _GREY)


def _bits(waves: NDArray[np.float32]) -> np.uint64:
    """Signs of coefficients [8, 8] as one number; that of the mean is left out. 0: there is nothing but it."""
    flat = waves.reshape(-1).copy()
    flat[0] = 0
    if np.abs(flat).max() < _PLAIN * _GREY * _GREY:
        return np.uint64(0)
    return np.uint64(np.packbits(flat > 0).view("<u8")[0])
