"""The sixteen dimensions of VBench: groups, normalisation and weights (VBench, `scripts/constant.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["quality", "semantic"]
OFFICIAL_SAMPLES = 5
"""Clips of a prompt; of temporal flickering the static filter keeps the first five of 25."""


@dataclass(frozen=True)
class Dimension:
    """One dimension."""

    name: str
    """As the official package spells it."""
    group: Group
    least: float = 0.0
    """Raw score that is normalised to 0."""
    greatest: float = 1.0
    """Raw score that is normalised to 1."""
    weight: float = 1.0
    """Within its group."""
    is_bounded: bool = True
    """Whether a clip's raw score lies in 0..1 by definition; cosines and regressions do not."""

    @property
    def title(self) -> str:
        """As the paper's Table 4 prints it."""
        return self.name.replace("_", " ")

    def normalised(self, raw: float) -> float:
        """(x - min) / (max - min); above 1 where the raw score is above `greatest`."""
        return (raw - self.least) / (self.greatest - self.least)


_ALL = (
    Dimension("subject_consistency", "quality", least=0.1462),
    Dimension("background_consistency", "quality", least=0.2615),
    Dimension("temporal_flickering", "quality", least=0.6293),
    Dimension("motion_smoothness", "quality", least=0.706, greatest=0.9975),
    Dimension("dynamic_degree", "quality", weight=0.5),
    Dimension("aesthetic_quality", "quality", is_bounded=False),
    Dimension("imaging_quality", "quality", is_bounded=False),
    Dimension("object_class", "semantic"),
    Dimension("multiple_objects", "semantic"),
    Dimension("human_action", "semantic"),
    Dimension("color", "semantic"),
    Dimension("spatial_relationship", "semantic"),
    Dimension("scene", "semantic", greatest=0.8222),
    Dimension("appearance_style", "semantic", least=0.0009, greatest=0.2855, is_bounded=False),
    Dimension("temporal_style", "semantic", greatest=0.364, is_bounded=False),
    Dimension("overall_consistency", "semantic", greatest=0.364, is_bounded=False),
)
DIMENSIONS = {dimension.name: dimension for dimension in _ALL}
"""By name, in the order of the paper's Table 4."""
