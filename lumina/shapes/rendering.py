"""Draw a scene: anti-aliased frames at any size and rate, and their exact optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lumina.shapes.scene import DIRECTIONS, Background, Scene


class Drawn(Protocol):
    """A shape that is somewhere at any time, as `lumina.shapes.scene.Shape` is."""

    @property
    def kind(self) -> str: ...

    @property
    def radius(self) -> float: ...

    @property
    def rgb(self) -> tuple[float, float, float]: ...

    def center(self, t: float | np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]: ...


class Scenery(Protocol):
    """Shapes, the later ones in front, and what they stand before."""

    @property
    def shapes(self) -> Sequence[Drawn]: ...

    @property
    def background(self) -> Background: ...


def render(scene: Scenery, *, num_frames: int, height: int, width: int, fps: float, start_s: float = 0.0) -> np.ndarray:
    """Return uint8 frames [T, H, W, 3] of the scene at times start_s + i / fps."""
    frames = np.repeat(_background(scene.background, height, width)[None], num_frames, axis=0)
    t = start_s + np.arange(num_frames) / fps
    for shape in scene.shapes:
        alpha = _coverage(shape, t, height, width)[..., None]
        frames += alpha * (np.asarray(shape.rgb, np.float32) - frames)
    return np.rint(frames * 255).astype(np.uint8)


def optical_flow(scene: Scene, *, num_frames: int, height: int, width: int, fps: float) -> np.ndarray:
    """Return the exact forward flow float32 [T-1, 2, H, W] in pixels per frame (x to the right, y downwards).

    A pixel has the flow of the shape that covers at least half of it in the earlier frame, else zero.
    """
    flow = np.zeros((num_frames - 1, 2, height, width), np.float32)
    t = np.arange(num_frames - 1) / fps
    for shape in scene.shapes:
        step = shape.velocity * min(height, width) / fps
        covered = _coverage(shape, t, height, width) >= 0.5
        for axis, unit in enumerate(DIRECTIONS[shape.direction]):
            flow[:, axis][covered] = unit * step
    return flow


def _background(background: Background, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x + 0.5) / width, (y + 0.5) / height
    grey = background.level + background.gradient[0] * (x - 0.5) + background.gradient[1] * (y - 0.5)
    for cycles_x, cycles_y, phase, amplitude in background.waves:
        grey = grey + amplitude * np.sin(2 * np.pi * (cycles_x * x + cycles_y * y) + phase)
    return np.clip(grey[..., None] + np.asarray(background.tint, np.float32), 0, 1).astype(np.float32)


def _coverage(shape: Drawn, t: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of each pixel that the shape covers, float32 [T, H, W], from its signed distance in pixels."""
    center_x, center_y = shape.center(t, width, height)
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, None, :] - center_x[:, None, None].astype(np.float32)
    y = (np.arange(height, dtype=np.float32) + 0.5)[None, :, None] - center_y[:, None, None].astype(np.float32)
    distance = signed_distance(shape.kind, x, y, shape.radius * min(height, width))
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def signed_distance(kind: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance (negative inside) from points to a shape whose bounding square has half side `radius`.

    The triangle is isosceles and fills the square: apex at the top centre, base at the bottom.
    """
    if kind == "circle":
        return np.hypot(x, y) - radius
    if kind == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius
    # The slanted edge runs from (0, -radius) to (radius, radius); its outward normal is (2, -1) / sqrt(5).
    slant = (2 * np.abs(x) - (y + radius)) / np.float32(np.sqrt(5))
    return np.maximum(slant, y - radius)
