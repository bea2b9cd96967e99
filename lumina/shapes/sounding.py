"""Scenes with sound: shapes that hop or bounce at known times, each time with a tone of theirs.

Not everything that is seen is heard, and not everything that is heard is seen: shapes stand still, or glide without a
sound, and there are tones off-screen. So no measure of synchronisation is trivially one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lumina.shapes.scene import COLORS, KINDS, Background, sample_background, sample_rgb
from lumina.shapes.tones import OFF_SCREEN_HZ, PITCHES_HZ, SoundEvent

Motion = Literal["hop", "bounce", "glide", "still"]
MOST_S = 12.0
"""Seconds for which a scene has events; a shorter clip is its beginning."""
GAP_S = (0.45, 1.2)
"""Seconds from one event of a shape to the next."""
_MOTIONS: tuple[tuple[Motion, float], ...] = (("hop", 0.4), ("bounce", 0.4), ("glide", 0.1), ("still", 0.1))
"""How the main shape moves, and how often."""
_COMPANION = 0.2
"""Share of scenes with a shape behind that glides without a sound."""
_OFF_SCREEN = 0.15
"""Share of scenes with sounds off-screen."""
_EDGE = 0.03
_LEAST_HOP = 0.3
_GRAVITY = 5.0
"""Of a bounce, in heights per second squared."""
_HIGHEST = 0.55
_BEFORE_S = 0.2
_GLIDE = (0.1, 0.2)
"""Shares of the frame per second."""


@dataclass(frozen=True)
class Actor:
    """A shape in motion; positions are fractions of width and height."""

    kind: str
    color: str
    radius: float
    """Half the side of the bounding square, a fraction of the shorter side."""
    rgb: tuple[float, float, float]
    motion: Motion
    times_s: tuple[float, ...]
    """When it hops or touches the floor, ascending; empty if it does neither."""
    places: tuple[tuple[float, float], ...]
    """Of a hop: where it is before each time, and after the last. Of a bounce its place on the floor, else where it is
    at first."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Of a glide, per second."""
    level: float = 0.4
    """Of its tones."""

    def center(self, t: float | np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Centre in pixels at time t."""
        t = np.asarray(t, dtype=np.float64)
        if self.motion == "hop":
            place = np.array(self.places)[np.searchsorted(self.times_s, t, side="right")]
            return place[..., 0] * width, place[..., 1] * height
        (x, y), (vx, vy) = self.places[0], self.velocity
        if self.motion == "bounce":
            return np.full(t.shape, x * width), (y - self._height(t)) * height
        return _reflected(x + vx * t, self._margin) * width, _reflected(y + vy * t, self._margin) * height

    @property
    def _margin(self) -> float:
        return self.radius + _EDGE

    def _height(self, t: np.ndarray) -> np.ndarray:
        """Above the floor: a parabola from one time to the next; it has left the floor before the clip begins."""
        times = np.array([-_BEFORE_S, *self.times_s])
        index = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
        gap = times[index + 1] - times[index]
        share = np.clip((t - times[index]) / gap, 0, 1)
        return 4 * np.minimum(_GRAVITY * gap**2 / 8, _HIGHEST) * share * (1 - share)

    @property
    def events(self) -> tuple[SoundEvent, ...]:
        """What is heard of it."""
        return tuple(
            SoundEvent(time, PITCHES_HZ[self.color], self.kind, self.color, self.level) for time in self.times_s
        )


@dataclass(frozen=True)
class SoundScene:
    """What is seen and heard."""

    shapes: tuple[Actor, ...]
    """The later ones in front."""
    background: Background
    off_screen: tuple[SoundEvent, ...] = ()

    def events(self, duration_s: float) -> tuple[SoundEvent, ...]:
        """Everything that is heard to begin in so many seconds, by time."""
        heard = [*self.off_screen, *(event for shape in self.shapes for event in shape.events)]
        return tuple(sorted((one for one in heard if one.time_s < duration_s), key=lambda one: one.time_s))

    def truth(self, duration_s: float) -> dict[str, Any]:
        """The shapes and the events of a clip, for JSON: an event is `seen` if a shape makes it."""
        return {
            "shapes": [{"color": one.color, "kind": one.kind, "motion": one.motion} for one in self.shapes],
            "events": [
                {
                    "time_s": round(one.time_s, 6),
                    "pitch_hz": one.pitch_hz,
                    "kind": one.kind,
                    "color": one.color,
                    "seen": one.color is not None,
                }
                for one in self.events(duration_s)
            ],
        }


def sample_sound_scene(
    rng: np.random.Generator, *, motion: Motion | None = None, color: str | None = None, kind: str | None = None
) -> SoundScene:
    """Draw a scene; what is given is that of the main shape.

    Four scenes in ten have a shape that hops, four one that bounces, one a glide and one a still without a sound; in
    two of ten another shape glides behind it, and 15 of 100 have sounds off-screen.
    """
    names = [name for name, _ in _MOTIONS]
    motion = motion or names[rng.choice(len(names), p=[share for _, share in _MOTIONS])]
    main = _actor(rng, motion, color or _pick(rng, tuple(COLORS)), kind or _pick(rng, KINDS))
    shapes = [main]
    if rng.random() < _COMPANION:
        others = tuple(name for name in COLORS if name != main.color)
        shapes.insert(0, _actor(rng, "glide", _pick(rng, others), _pick(rng, KINDS)))
    heard: tuple[SoundEvent, ...] = ()
    if rng.random() < _OFF_SCREEN:
        heard = tuple(SoundEvent(time, OFF_SCREEN_HZ, "circle", None, 0.3) for time in _times(rng))
    return SoundScene(tuple(shapes), sample_background(rng), heard)


def _actor(rng: np.random.Generator, motion: Motion, color: str, kind: str) -> Actor:
    radius = float(rng.uniform(0.12, 0.16))
    low, high = radius + _EDGE, 1 - radius - _EDGE
    times = _times(rng) if motion in ("hop", "bounce") else ()
    places = [(float(rng.uniform(low, high)), float(rng.uniform(low, high)))]
    velocity = (0.0, 0.0)
    if motion == "hop":
        for _ in times:
            places.append(_elsewhere(rng, places[-1], low, high))
    elif motion == "bounce":
        places = [(places[0][0], high)]
    elif motion == "glide":
        speed, angle = rng.uniform(*_GLIDE), rng.uniform(0, 2 * np.pi)
        velocity = (float(speed * np.cos(angle)), float(speed * np.sin(angle)))
    level = float(rng.uniform(0.3, 0.5))
    return Actor(kind, color, radius, sample_rgb(rng, color), motion, times, tuple(places), velocity, level)


def _times(rng: np.random.Generator) -> tuple[float, ...]:
    times = [float(rng.uniform(0.1, 0.8))]
    while times[-1] < MOST_S:
        times.append(times[-1] + float(rng.uniform(*GAP_S)))
    return tuple(times)


def _elsewhere(rng: np.random.Generator, place: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    while True:
        x, y = (float(value) for value in rng.uniform(low, high, 2))
        if max(abs(x - place[0]), abs(y - place[1])) >= _LEAST_HOP:
            return x, y


def _reflected(position: np.ndarray, margin: float) -> np.ndarray:
    """Positions that turn back at the margins."""
    room = 1 - 2 * margin
    return margin + room - np.abs((position - margin) % (2 * room) - room)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


_MOVES: dict[Motion, tuple[str, ...]] = {
    "hop": ("hops from place to place", "jumps about", "hops around"),
    "bounce": ("bounces on the floor", "bounces up and down", "bounces"),
    "glide": ("glides silently", "drifts by without a sound"),
    "still": ("stays still", "does not move"),
}


def sound_caption(scene: SoundScene, rng: np.random.Generator) -> str:
    """A true sentence about what is seen, the main shape first: `A red circle bounces before a dark background.`"""
    told = [f"a {one.color} {one.kind} {_pick(rng, _MOVES[one.motion])}" for one in reversed(scene.shapes)]
    text = f"{' while '.join(told)} before a {scene.background.brightness} background"
    return f"{text[0].upper()}{text[1:]}."
