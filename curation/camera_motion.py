"""Camera motion: pan, zoom and shake, by a similarity that is fitted to the optical flow between frames.

The flow is that of OpenCV's DIS between frames some twentieth of a second apart. The pairs of the stage `motion` are
half a second apart: a hand that shakes three times a second is not seen there, and a run without that stage has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_BLUR = 2.5
"""Deviation in pixels of the blur against noise: without it the one sharp thing in a picture is all that moves."""
_STRIDE = 4
_TEXTURE = 0.3
"""Grey levels per pixel that a point's brightness has to change by at least: of less nobody sees how it moves."""
_LEAST_POINTS = 24
_INLIER = 0.3
"""Pixels by which a point may move otherwise than the picture."""
_SMOOTH_S = 1.0
_DEGREE = 2


@dataclass(frozen=True)
class Step:
    """How the picture moved from one frame to the next."""

    x: float
    y: float
    """Of its middle, in short sides, to the right and downwards."""
    log_scale: float
    """Natural logarithm of the factor by which it grew."""
    fit: float
    """Share of the textured points that moved so."""


def step(before: Image, after: Image) -> Step | None:
    """The similarity between two lumas [H, W], robust against what moves before the camera; None without texture."""
    before, after = (np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR), np.uint8) for image in (before, after))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(before, after, None)
    height, width = before.shape
    inner = slice(_STRIDE, -_STRIDE, _STRIDE)
    change = sum(np.abs(cv2.Sobel(before, cv2.CV_32F, *axis)) / 8 for axis in ((1, 0), (0, 1)))
    seen = np.asarray(change)[inner, inner] > _TEXTURE
    y, x = np.mgrid[0:height, 0:width][:, inner, inner]
    points = np.stack([x[seen], y[seen]], axis=1).astype(np.float32)
    if len(points) < _LEAST_POINTS:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(
        points, points + flow[inner, inner][seen], method=cv2.RANSAC, ransacReprojThreshold=_INLIER
    )
    if matrix is None:
        return None
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    moved = matrix[:, :2] @ middle + matrix[:, 2] - middle
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    side = min(height, width)
    return Step(float(moved[0]) / side, float(moved[1]) / side, math.log(scale), float(inliers.mean()))


@dataclass
class Camera:
    """What is gathered of one clip's frames."""

    short_side: int
    """Pixels of the short side in which flow is estimated."""
    interval_s: float
    """Seconds between two frames that are compared, at least."""
    _last: tuple[float, Image] | None = None
    _stamps: list[float] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list)
    _blind: bool = False

    def see(self, stamp_s: float, luma: Image) -> None:
        """Look at the luma [H, W] of a frame, and when it is shown."""
        if self._last is not None and stamp_s - self._last[0] < self.interval_s - 1e-6:
            return
        scale = self.short_side / min(luma.shape)
        if scale < 1:
            size = tuple(max(16, round(side * scale)) for side in luma.shape[::-1])
            luma = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)
        if self._last is not None and min(luma.shape) >= 16:
            found = step(self._last[1], luma)
            self._blind = self._blind or found is None
            if found is not None:
                self._steps.append(found)
        self._stamps.append(stamp_s)
        self._last = stamp_s, luma

    def found(self) -> dict[str, float | None]:
        """The columns of `camera`; null where too little is seen to tell."""
        if self._blind or len(self._steps) < 3:
            return dict.fromkeys(("camera_pan", "camera_zoom", "camera_shake", "camera_fit"))
        path = np.cumsum([(0, 0), *((one.x, one.y) for one in self._steps)], axis=0)
        seconds = self._stamps[-1] - self._stamps[0]
        return {
            "camera_pan": float(np.hypot(*path[-1])) / seconds,
            "camera_zoom": sum(one.log_scale for one in self._steps) / seconds,
            "camera_shake": 100 * shake(np.asarray(self._stamps), path),
            "camera_fit": float(np.mean([one.fit for one in self._steps])),
        }


def shake(stamps_s: NDArray[np.float64], path: NDArray[np.float64]) -> float:
    """Root mean square of what a path [T, 2] is away from a parabola fitted to the second around each of its points.

    A pan at any speed, or one that begins slowly, has none; a clip of less than a second is one parabola.
    """
    residuals = []
    for index, stamp in enumerate(stamps_s):
        low = min(max(stamp - _SMOOTH_S / 2, stamps_s[0]), max(stamps_s[-1] - _SMOOTH_S, stamps_s[0]))
        near = (stamps_s >= low - 1e-6) & (stamps_s <= low + _SMOOTH_S + 1e-6)
        times = stamps_s[near] - stamp
        terms = np.vander(times, min(_DEGREE, len(times) - 1) + 1)
        fitted = np.linalg.lstsq(terms, path[near], rcond=None)[0][-1]
        residuals.append(path[index] - fitted)
    return float(np.sqrt(np.square(residuals).sum(axis=1).mean()))
