"""Prompt list of VBench: `VBench_full_info.json`, which the project does not ship.

The user gives its path, or it is taken from an installed package `vbench`. Prompts that the file holds twice (two of
its 946) are one prompt here, with the dimensions of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lumina.files import read_json
from lumina.vbench.dimensions import DIMENSIONS

FILE = "VBench_full_info.json"
_NEEDS: dict[str, tuple[str, ...]] = {
    "object_class": ("object",),
    "multiple_objects": ("object",),
    "color": ("color",),
    "spatial_relationship": ("object_a", "object_b", "relationship"),
    "scene": ("scene",),
    "appearance_style": ("appearance_style",),
}
"""What a dimension must be told of a prompt."""


@dataclass(frozen=True)
class VBenchPrompt:
    """One prompt."""

    text: str
    """As clips are named."""
    dimensions: tuple[str, ...]
    """Which it is judged by, in the order of Table 4."""
    auxiliary: Mapping[str, Mapping[str, str]]
    """Dimension to what it looks for, e.g. {"color": {"color": "red"}}."""

    @property
    def stratum(self) -> str:
        """Prompts of the same dimensions: a resample keeps how many there are of each."""
        return "+".join(self.dimensions)


def find_prompts(path: Path | None) -> Path:
    """The prompt file: `path`, or that of an installed package `vbench`.

    Raises FileNotFoundError saying where to get it.
    """
    if path is not None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file: expected {FILE} of VBench")
        return path
    found = find_spec("vbench")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / FILE).is_file():
            return Path(place) / FILE
    raise FileNotFoundError(
        f"no {FILE}: name one; the wheel of vbench on PyPI holds it (pip download --no-deps vbench; unzip)"
    )


def read_prompts(path: Path, dimensions: Sequence[str] = ()) -> tuple[VBenchPrompt, ...]:
    """Prompts of the chosen dimensions, in the file's order.

    Args:
        path: of `VBench_full_info.json`.
        dimensions: which to judge; empty for all.

    Raises ValueError naming file and entry: no list of prompts, an unknown dimension, or one that is not told what to
    look for (so in files of other versions).
    """
    wanted = set(dimensions or DIMENSIONS)
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: expected a list of prompts as {FILE} of VBench holds it")
    found: dict[str, VBenchPrompt] = {}
    for number, entry in enumerate(content, start=1):
        prompt = _prompt(entry, f"{path}, entry {number}")
        before = found.get(prompt.text)
        names = {*prompt.dimensions, *(before.dimensions if before else ())} & wanted
        auxiliary = {**(before.auxiliary if before else {}), **prompt.auxiliary}
        ordered = tuple(name for name in DIMENSIONS if name in names)
        if ordered:
            kept = {name: auxiliary[name] for name in ordered if name in auxiliary}
            found[prompt.text] = VBenchPrompt(prompt.text, ordered, kept)
    without = sorted(wanted - {name for prompt in found.values() for name in prompt.dimensions})
    if dimensions and without:
        raise ValueError(f"{path} has no prompt for {', '.join(without)}")
    return tuple(found.values())


def _prompt(entry: Any, where: str) -> VBenchPrompt:
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt_en"), str) or not entry["prompt_en"].strip():
        raise ValueError(f"{where}: expected an object with the text prompt_en")
    names = entry.get("dimension")
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where}: expected a list of dimensions in dimension")
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown:
        raise ValueError(f"{where}: unknown dimension {unknown[0]!r}; VBench has {', '.join(DIMENSIONS)}")
    told = entry.get("auxiliary_info") or {}
    if not isinstance(told, dict):
        raise ValueError(f"{where}: auxiliary_info is no object")
    return VBenchPrompt(
        entry["prompt_en"],
        tuple(name for name in DIMENSIONS if name in names),
        {name: _auxiliary(told.get(name), name, where) for name in names if name in _NEEDS},
    )


def _auxiliary(told: Any, dimension: str, where: str) -> dict[str, str]:
    # Two of the official dimensions are nested once more: {"scene": {"scene": {"scene": "alley"}}}.
    inner = told.get(dimension) if isinstance(told, dict) else None
    values = inner if isinstance(inner, dict) else told
    keys = _NEEDS[dimension]
    if not isinstance(values, dict) or any(not isinstance(values.get(key), str) for key in keys):
        raise ValueError(f"{where}: auxiliary_info does not tell {dimension} its {', '.join(keys)}")
    return {key: values[key] for key in keys}
