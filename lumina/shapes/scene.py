"""Scenes: one or two coloured shapes that stand or move on a background.

Lengths are fractions of the frame's shorter side, positions fractions of width and height, times seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

COLORS: dict[str, float] = {"red": 0.0, "yellow": 55.0, "green": 120.0, "cyan": 182.0, "blue": 232.0, "magenta": 300.0}
"""Colour name to hue in degrees."""
KINDS = ("circle", "square", "triangle")
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}
"""Direction name to unit vector (x to the right, y downwards)."""
SPEEDS: dict[str, tuple[float, float]] = {"still": (0.0, 0.0), "slow": (0.1, 0.125), "fast": (0.2, 0.23)}
"""Speed name to its range in shorter sides per second."""
STAY_S = 2.2
"""A scene's shapes stay whole and apart inside the frame for this long."""
_GAP = 0.02
_TWO_SHAPES = 0.1
_SPREAD = 0.2
"""Single shapes are framed: their path lies within this share of the room around the middle that it could have."""


@dataclass(frozen=True)
class Shape:
    """One shape: `x`, `y` is its bounding box's centre at time 0, `velocity` in shorter sides per second."""

    kind: str
    color: str
    direction: str
    speed: str
    x: float
    y: float
    radius: float
    """Half the side of the bounding square."""
    velocity: float
    rgb: tuple[float, float, float]

    def center(self, t: float | np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Centre in pixels at time t; beyond the border the shape comes back on the other side."""
        side = min(width, height)
        dx, dy = DIRECTIONS[self.direction]
        margin = self.radius * side
        x = np.asarray(self.x * width + dx * self.velocity * side * np.asarray(t, dtype=np.float64))
        y = np.asarray(self.y * height + dy * self.velocity * side * np.asarray(t, dtype=np.float64))
        return (x + margin) % (width + 2 * margin) - margin, (y + margin) % (height + 2 * margin) - margin


@dataclass(frozen=True)
class Background:
    """A grey gradient with a tint and a texture of plane waves; its chroma stays far below any shape's."""

    brightness: str
    """`dark` or `light`."""
    level: float
    gradient: tuple[float, float]
    tint: tuple[float, float, float]
    waves: tuple[tuple[float, float, float, float], ...]
    """(cycles in x, cycles in y, phase, amplitude) of each wave."""


@dataclass(frozen=True)
class Scene:
    """Everything that `render` draws and `caption` tells."""

    shapes: tuple[Shape, ...]
    background: Background


def sample_scene(
    rng: np.random.Generator,
    *,
    num_shapes: int | None = None,
    color: str | None = None,
    kind: str | None = None,
    direction: str | None = None,
    speed: str | None = None,
) -> Scene:
    """Draw a scene; what is given is kept (colour, kind, direction and speed are those of the first shape).

    One scene in ten has two shapes, of different colours, which never meet within `STAY_S` seconds; single shapes
    cross the middle of the frame.

    Raises:
        ValueError: a given colour, kind, direction or speed does not exist, or direction and speed contradict.
    """
    _check("color", color, COLORS)
    _check("kind", kind, KINDS)
    _check("direction", direction, DIRECTIONS)
    _check("speed", speed, SPEEDS)
    if direction is not None and speed is not None and (direction == "still") != (speed == "still"):
        raise ValueError(f"direction {direction!r} contradicts speed {speed!r}")
    if num_shapes not in (None, 1, 2):
        raise ValueError(f"num_shapes must be 1 or 2, not {num_shapes!r}")
    count = num_shapes or (2 if rng.random() < _TWO_SHAPES else 1)
    while True:
        first = _sample_shape(rng, count, color, kind, direction, speed)
        shapes = [first]
        if count == 2:
            others = [name for name in COLORS if name != first.color]
            shapes.append(_sample_shape(rng, count, others[rng.integers(len(others))], None, None, None))
        if count == 1 or _apart(*shapes):
            return Scene(tuple(shapes), sample_background(rng))


def _check(name: str, value: str | None, known: Collection[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def _sample_shape(
    rng: np.random.Generator, count: int, color: str | None, kind: str | None, direction: str | None, speed: str | None
) -> Shape:
    if direction is None:
        names = [name for name in DIRECTIONS if speed is None or (name == "still") == (speed == "still")]
        direction = names[rng.integers(len(names))]
    if direction == "still":
        speed = "still"
    elif speed is None:
        speed = ("slow", "fast")[rng.integers(2)]
    color = color or list(COLORS)[rng.integers(len(COLORS))]
    kind = kind or KINDS[rng.integers(len(KINDS))]
    radius = rng.uniform(0.19, 0.22) if count == 1 else rng.uniform(0.12, 0.14)
    velocity = rng.uniform(*SPEEDS[speed])
    spread = _SPREAD if count == 1 else 1.0
    (x, y) = (_start(rng, radius, axis * velocity * STAY_S, spread) for axis in DIRECTIONS[direction])
    return Shape(kind, color, direction, speed, x, y, radius, velocity, sample_rgb(rng, color))


def sample_rgb(rng: np.random.Generator, color: str) -> tuple[float, float, float]:
    """Draw a shade of a colour: RGB in [0, 1]."""
    hue = COLORS[color] + rng.uniform(-6, 6)
    return _hsv_to_rgb(hue, *rng.uniform(0.82, 1.0, 2))


def _start(rng: np.random.Generator, radius: float, travel: float, spread: float) -> float:
    middle, room = 0.5 - travel / 2, 1 - 2 * (radius + _GAP) - abs(travel)
    return middle + spread * room * float(rng.uniform(-0.5, 0.5))


def _apart(a: Shape, b: Shape) -> bool:
    t = np.linspace(0, STAY_S, 24)
    (ax, ay), (bx, by) = a.center(t, 1000, 1000), b.center(t, 1000, 1000)
    gap = np.maximum(np.abs(ax - bx), np.abs(ay - by)) / 1000 - a.radius - b.radius
    return bool(gap.min() > 3 * _GAP)


def sample_background(rng: np.random.Generator) -> Background:
    """Draw a background."""
    brightness = ("dark", "light")[rng.integers(2)]
    level = rng.uniform(0.1, 0.28) if brightness == "dark" else rng.uniform(0.66, 0.84)
    waves = tuple(
        (
            float(rng.uniform(-3, 3)),
            float(rng.uniform(-3, 3)),
            float(rng.uniform(0, 2 * np.pi)),
            float(rng.uniform(0, 0.03)),
        )
        for _ in range(2)
    )
    gradient = (float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12)))
    tint = tuple(float(v) for v in rng.uniform(-0.04, 0.04, 3))
    return Background(brightness, float(level), gradient, (tint[0], tint[1], tint[2]), waves)


def _hsv_to_rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Hue in degrees, the rest in [0, 1]; RGB in [0, 1]."""
    sector = np.array([5.0, 3.0, 1.0])
    k = (sector + hue / 60) % 6
    r, g, b = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return float(r), float(g), float(b)
