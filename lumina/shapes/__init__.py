"""The Shapes world: moving shapes with true captions whose content can be measured back from the frames.

A model trained on it has a semantic accuracy that needs no downloaded network to measure:
`measure(render(scene, ...))` finds the colour, shape, direction and speed that `caption(scene)` names.
"""

from lumina.shapes.captions import caption
from lumina.shapes.measurement import MeasuredShape, Measurement, measure
from lumina.shapes.rendering import optical_flow, render
from lumina.shapes.scene import COLORS, DIRECTIONS, KINDS, SPEEDS, Background, Scene, Shape, sample_scene
from lumina.shapes.sources import SOURCES, Source, film

__all__ = [
    "COLORS",
    "DIRECTIONS",
    "KINDS",
    "SOURCES",
    "SPEEDS",
    "Background",
    "MeasuredShape",
    "Measurement",
    "Scene",
    "Shape",
    "Source",
    "caption",
    "film",
    "measure",
    "optical_flow",
    "render",
    "sample_scene",
]
