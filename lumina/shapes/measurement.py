"""Find colour, shape, direction and speed in frames by classical means: hue, template overlap, a line through time.

No learned network and no knowledge of the scene: the same code judges rendered, compressed and generated clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lumina.shapes.rendering import signed_distance
from lumina.shapes.scene import COLORS, DIRECTIONS, KINDS, SPEEDS

_UPSAMPLED_SIDE = 128
_MIN_CHROMA = 0.22
_MIN_AREA = 0.012
"""Of the frame: smaller blobs are noise."""
_MIN_RELATIVE_AREA = 0.3
"""Of the largest blob: smaller ones are its fringe."""
_STILL_BELOW = 0.6 * SPEEDS["slow"][0]
_FAST_ABOVE = (SPEEDS["slow"][1] + SPEEDS["fast"][0]) / 2


@dataclass(frozen=True)
class MeasuredShape:
    """One shape found in a clip."""

    kind: str
    color: str
    direction: str
    speed: str
    speed_value: float
    """Shorter sides per second."""
    overlap: float
    """Mean overlap (intersection over union) with the ideal shape, in [0, 1]."""
    visible: float
    """Share of the frames in which it was found."""


@dataclass(frozen=True)
class Measurement:
    """All shapes found, the largest first; empty when nothing coloured is there."""

    shapes: tuple[MeasuredShape, ...]


@dataclass(frozen=True)
class _Blob:
    x: float
    y: float
    area: float
    overlaps: tuple[float, ...]


def measure(frames: np.ndarray, fps: float) -> Measurement:
    """Measure uint8 frames [T, H, W, 3].

    One shape per colour is looked for (scenes never hold two of one colour) in the frames' saturated pixels. A colour
    counts when it is found in at least half of the frames.
    """
    import cv2

    num_frames, height, width = frames.shape[:3]
    zoom = max(1.0, _UPSAMPLED_SIDE / min(height, width))
    size = (round(width * zoom), round(height * zoom))
    side = min(size)
    tracks: dict[str, dict[int, _Blob]] = {}
    for i, frame in enumerate(frames):
        for color, blob in _blobs(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)).items():
            tracks.setdefault(color, {})[i] = blob
    found = [
        (float(np.mean([b.area for b in track.values()])), _describe(color, track, num_frames, fps, side))
        for color, track in tracks.items()
        if len(track) >= num_frames / 2
    ]
    if not found:
        return Measurement(())
    largest = max(area for area, _ in found)
    kept = [(area, shape) for area, shape in found if area >= _MIN_RELATIVE_AREA * largest]
    kept.sort(key=lambda item: (-item[0], item[1].color))
    return Measurement(tuple(shape for _, shape in kept))


def _blobs(frame: np.ndarray) -> dict[str, _Blob]:
    import cv2

    rgb = frame.astype(np.float32) / 255
    red, green, blue = (rgb[..., channel] for channel in range(3))
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    peak = float(np.quantile(chroma, 0.99))
    mask = chroma > max(_MIN_CHROMA, 0.5 * peak)
    if mask.sum() < _MIN_AREA * mask.size:
        return {}
    names, hues = list(COLORS), np.array(list(COLORS.values()), np.float32)
    hue = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 0][mask]
    nearest = np.full(mask.shape, -1)
    nearest[mask] = np.abs((hue[:, None] - hues + 180) % 360 - 180).argmin(axis=-1)
    blobs: dict[str, _Blob] = {}
    for index in np.unique(nearest[mask]):
        count, labels, stats, centroids = cv2.connectedComponentsWithStats((nearest == index).astype(np.uint8))
        if count < 2:
            continue
        label = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        area = int(stats[label, cv2.CC_STAT_AREA])
        if area >= _MIN_AREA * mask.size:
            x, y = centroids[label]
            blobs[names[index]] = _Blob(float(x), float(y), float(area), _overlaps(labels == label, x, y, area))
    return blobs


def _overlaps(mask: np.ndarray, x: float, y: float, area: float) -> tuple[float, ...]:
    """Overlap of the blob with the ideal shape of each kind that has its area and centroid."""
    rows, columns = (
        np.arange(mask.shape[0], dtype=np.float32)[:, None],
        np.arange(mask.shape[1], dtype=np.float32)[None],
    )
    overlaps = []
    for kind in KINDS:
        radius = float(np.sqrt(area / {"circle": np.pi, "square": 4.0, "triangle": 2.0}[kind]))
        # A triangle's centroid lies a third of its height above the base: radius / 3 below the box's centre.
        offset = radius / 3 if kind == "triangle" else 0.0
        ideal = signed_distance(kind, columns - np.float32(x), rows - np.float32(y - offset), radius) <= 0
        overlaps.append(float((mask & ideal).sum() / (mask | ideal).sum()))
    return tuple(overlaps)


def _describe(color: str, track: dict[int, _Blob], num_frames: int, fps: float, side: int) -> MeasuredShape:
    times = np.array(sorted(track)) / fps
    position = np.array([(track[i].x, track[i].y) for i in sorted(track)]) / side
    overlap = np.mean([blob.overlaps for blob in track.values()], axis=0)
    if len(times) > 1:
        centered = times - times.mean()
        # No matrix products: BLAS rounds them as the kernel does that it takes for the CPU.
        moved = (centered[:, None] * (position - position.mean(axis=0))).sum(axis=0)
        velocity = moved / np.square(centered).sum()
    else:
        velocity = np.zeros(2)
    value = float(np.hypot(*velocity))
    if value < _STILL_BELOW:
        direction, speed = "still", "still"
    else:
        direction = max(DIRECTIONS, key=lambda name: float((velocity * np.array(DIRECTIONS[name])).sum()))
        speed = "fast" if value > _FAST_ABOVE else "slow"
    best = int(overlap.argmax())
    return MeasuredShape(KINDS[best], color, direction, speed, value, float(overlap[best]), len(track) / num_frames)
