"""True sentences about a scene, in varied words."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lumina.shapes.scene import Scene, Shape

SpeedTold = Literal["mostly", "always", "never"]
"""Whether captions name the speed of what moves; mostly: in four of five."""

_TO = {
    "left": ("to the left", "left", "towards the left"),
    "right": ("to the right", "right", "towards the right"),
    "up": ("up", "upwards", "towards the top"),
    "down": ("down", "downwards", "towards the bottom"),
}
_HOW = {"slow": ("slowly", "at a slow pace"), "fast": ("fast", "quickly")}
_MOVES = ("moves", "glides", "drifts", "travels")
_STAYS = ("stays still", "does not move", "stands still", "rests in place")
_BACKGROUND = ("on a {} background", "in front of a {} background", "against a {} backdrop")
_OPENINGS = ("", "", "A short clip: ", "In this video, ", "The camera shows a scene where ")


def caption(scene: Scene, rng: np.random.Generator, *, speed: SpeedTold = "mostly", image: bool = False) -> str:
    """Describe the scene.

    Args:
        speed: whether it is named.
        image: describe a still image, so nothing is said of motion.
    """
    if image:
        text = " and ".join(_noun(shape) for shape in scene.shapes)
    else:
        joint = (" and ", " while ")[rng.integers(2)]
        text = joint.join(_clause(shape, rng, speed) for shape in scene.shapes)
    text += " " + _pick(_BACKGROUND, rng).format(scene.background.brightness)
    opening = "" if image else _pick(_OPENINGS, rng)
    return (opening + text if opening else text[0].upper() + text[1:]) + "."


def _noun(shape: Shape) -> str:
    return f"a {shape.color} {shape.kind}"


def _clause(shape: Shape, rng: np.random.Generator, speed: SpeedTold) -> str:
    if shape.direction == "still":
        return f"{_noun(shape)} {_pick(_STAYS, rng)}"
    told = rng.random() < 0.8 if speed == "mostly" else speed == "always"
    how = _pick(_HOW[shape.speed], rng) if told else ""
    words = [_noun(shape), _pick(_MOVES, rng), _pick(_TO[shape.direction], rng), how]
    return " ".join(word for word in words if word)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]
