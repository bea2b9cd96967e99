"""Judge settings of VBench: where weights and the official code are, who scores a dimension, how its figure is named.

`vbench/` is for what the official code computed, `vbench_native/` for what the judges here did; see
`lumina.vbench.summary`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from lumina.config import Config
from lumina.vbench.dimensions import DIMENSIONS, OFFICIAL_SAMPLES

By = Literal["official", "native"]
PREFIXES: Mapping[By, str] = {"official": "vbench", "native": "vbench_native"}
TOTALS = ("quality", "semantic", "total")
_FLOW_PIXELS = 128
"""Sides of which RAFT and AMT have a flow: a pyramid of 1/64 of less divides by zero."""


class VBenchWeights(Config):
    """Where the networks of the native dimensions lie; a dimension without its weights is left out, and named."""

    dino: str | None = None
    """dino_vitbase16_pretrain.pth, or the directory of facebook/dino-vitb16: subject consistency."""
    clip_b32: str | None = None
    """Directory of openai/clip-vit-base-patch32: background consistency, appearance style."""
    clip_l14: str | None = None
    """Directory of openai/clip-vit-large-patch14: aesthetic quality."""
    aesthetic: str | None = None
    """sa_0_4_vit_l_14_linear.pth of LAION: aesthetic quality."""
    raft: str | None = None
    """raft-things.pth, or torchvision's raft_large: dynamic degree, and the static filter of temporal flickering."""
    human_action: str | None = None
    """l16_ptk710_ftk710_ftk400_f16_res224.pth: human action."""
    actions: str | None = None
    """kinetics_400_categories.txt, a name in each line; that of an installed package vbench otherwise."""


_NEEDS: dict[str, tuple[str, ...]] = {
    "temporal_flickering": (),
    "dynamic_degree": ("raft",),
    "subject_consistency": ("dino",),
    "background_consistency": ("clip_b32",),
    "aesthetic_quality": ("clip_l14", "aesthetic"),
    "appearance_style": ("clip_b32",),
    "human_action": ("human_action",),
}
NATIVE = tuple(_NEEDS)
"""Dimensions that have a judge here."""


class JudgeConfig(Config):
    """By whom dimensions are scored."""

    weights: VBenchWeights = VBenchWeights()
    """Of the native judges; a dimension without them is left to the official code, or left out and named."""
    python: Path | None = None
    """Interpreter of an environment that has the official `vbench`."""
    official: tuple[str, ...] = ()
    """Dimensions that the official code scores although they have a judge here; `all` for every one."""
    dtype: str = Field(default="float32", pattern="^(float32|bfloat16)$")
    """Type in which the native judges compute; the published figures are of float32 on CPUs and float16 on GPUs."""


class VBenchSuite(JudgeConfig):
    """VBench: its prompts and dimensions, by the judges here or the official code."""

    kind: Literal["vbench"] = "vbench"
    prompts: Path | None = None
    """VBench_full_info.json; None is that of an installed package `vbench`. Known by content."""
    dimensions: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Which are judged; None is every one for which there are weights, or the official code."""
    augmented: Path | None = None
    """CSV or JSON Lines with the columns prompt and text: what the model is told instead. Known by content."""

    @field_validator("dimensions")
    @classmethod
    def _dimensions(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in DIMENSIONS:
                raise ValueError(f"there is no dimension {name!r}; {nearest(name, DIMENSIONS)}")
        return None if names is None else tuple(name for name in DIMENSIONS if name in names)

    @model_validator(mode="after")
    def _official(self) -> VBenchSuite:
        for name in self.official:
            if name != "all" and name not in DIMENSIONS:
                raise ValueError(f"official: there is no dimension {name!r}; {nearest(name, [*DIMENSIONS, 'all'])}")
        return self

    def judged(self) -> tuple[str, ...]:
        """Dimensions in effect, in the order of Table 4."""
        if self.dimensions is not None:
            return self.dimensions
        return tuple(name for name in DIMENSIONS if unavailable(name, self) is None)

    def figures(self) -> tuple[str, ...]:
        """Names of the figures that there will be unless a clip fails."""
        names = self.judged()
        found = [figure_name(judged_by(name, self), name) for name in names]
        for total in TOTALS:
            members = members_of(total)
            if set(members) <= set(names):
                found.append(figure_name(weakest(judged_by(name, self) for name in members), total))
        return tuple(found)

    def identity(self) -> VBenchSuite:
        """What figures depend on beside the content of files and networks, which is known apart."""
        names = self.judged()
        official = tuple(name for name in names if judged_by(name, self) == "official")
        return VBenchSuite(dimensions=names, official=official, dtype=self.dtype)

    def networks(self) -> dict[str, str]:
        """Settings and places of the weights that the native dimensions use."""
        found: dict[str, str] = {}
        for name in self.judged():
            if judged_by(name, self) == "native":
                found |= used_weights(name, self.weights)
        return found

    def check_clips(self, width: int, height: int, num_frames: int, fps: float, samples: int) -> None:
        """Refuse clips that the dimensions cannot judge; raises ValueError saying which."""
        if samples > OFFICIAL_SAMPLES:
            raise ValueError(f"samples is {samples}, but VBench looks at {OFFICIAL_SAMPLES} clips of a prompt at most")
        flow = {"dynamic_degree", "motion_smoothness", *(["temporal_flickering"] if filters_clips(self) else [])}
        if min(width, height) < _FLOW_PIXELS and (named := [name for name in self.judged() if name in flow]):
            raise ValueError(
                f"{named[0]} needs sides of {_FLOW_PIXELS} pixels, for there is no optical flow of less; clips have "
                f"{width}x{height}"
            )
        kept = len(range(0, num_frames, max(1, round(fps / 8))))
        if kept < 3 and "dynamic_degree" in self.judged():
            raise ValueError(
                f"dynamic_degree needs three frames at 8 a second; {num_frames} frames at {fps:g} fps have {kept}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant, in words."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


def missing_weights(dimension: str, weights: VBenchWeights) -> tuple[str, ...]:
    """Settings that a native dimension still needs."""
    return tuple(name for name in _NEEDS[dimension] if getattr(weights, name) is None)


def used_weights(dimension: str, weights: VBenchWeights) -> dict[str, str]:
    """Settings and places of the weights that a dimension uses."""
    used = list(_NEEDS[dimension])
    if dimension == "temporal_flickering" and weights.raft is not None:
        used.append("raft")
    return {name: str(getattr(weights, name)) for name in used}


def judged_by(dimension: str, config: JudgeConfig) -> By:
    """Who scores a dimension: a judge here, if it has one with its weights and nobody asked for the official one."""
    asked = dimension in config.official or "all" in config.official
    native = dimension in NATIVE and not missing_weights(dimension, config.weights)
    return "native" if native and not asked else "official"


def unavailable(dimension: str, config: JudgeConfig) -> str | None:
    """Why nobody can score a dimension."""
    if judged_by(dimension, config) == "native" or config.python is not None:
        return None
    needs = missing_weights(dimension, config.weights) if dimension in NATIVE else ()
    return f"needs weights of {', '.join(needs)}, or the official vbench" if needs else "needs the official vbench"


def check_available(suite: VBenchSuite, where: str) -> None:
    """Raise ValueError naming the first dimension of a suite that nobody can score; `where` names the suite."""
    for name in suite.judged():
        if (reason := unavailable(name, suite)) is not None:
            raise ValueError(f"{where}.dimensions names {name}, which {reason}: set {where}.weights or {where}.python")


def filters_clips(config: JudgeConfig) -> bool:
    """Whether the static filter chooses among clips of temporal flickering: it needs an optical flow."""
    return config.weights.raft is not None and judged_by("temporal_flickering", config) == "native"


def members_of(total: str) -> tuple[str, ...]:
    """Dimensions of a total."""
    return tuple(name for name, one in DIMENSIONS.items() if total in ("total", one.group))


def weakest(parts: Iterable[By]) -> By:
    """Whose a figure of several parts is."""
    return "official" if all(one == "official" for one in parts) else "native"


def figure_name(by: By, name: str) -> str:
    """Of a dimension, or a total: "vbench_native/dynamic_degree"."""
    return f"{PREFIXES[by]}/{name}"


def figure_of(metric: str) -> str | None:
    """The dimension or total of a figure's name; None for figures that are none of VBench's."""
    prefix, _, name = metric.partition("/")
    return name if prefix in PREFIXES.values() and (name in DIMENSIONS or name in TOTALS) else None
