"""The Shapes world: moving shapes with true captions whose content can be measured back from the frames.

A model trained on it has a semantic accuracy that needs no downloaded network to measure:
`measure(render(scene, ...))` finds the colour, shape, direction and speed that `caption(scene)` names.
"""

from lumina.shapes.captions import SpeedTold, caption
from lumina.shapes.measurement import MeasuredShape, Measurement, measure
from lumina.shapes.rendering import optical_flow, render
from lumina.shapes.scene import COLORS, DIRECTIONS, KINDS, SPEEDS, Background, Scene, Shape, sample_scene
from lumina.shapes.sounding import SoundScene, sample_sound_scene, sound_caption
from lumina.shapes.sources import SOURCES, STRONG, Source, film
from lumina.shapes.tones import PITCHES_HZ, SoundEvent, waveform

__all__ = [
    "COLORS",
    "DIRECTIONS",
    "KINDS",
    "PITCHES_HZ",
    "SOURCES",
    "SPEEDS",
    "STRONG",
    "Background",
    "MeasuredShape",
    "Measurement",
    "Scene",
    "Shape",
    "SoundEvent",
    "SoundScene",
    "Source",
    "SpeedTold",
    "caption",
    "film",
    "measure",
    "optical_flow",
    "render",
    "sample_scene",
    "sample_sound_scene",
    "sound_caption",
    "waveform",
]
