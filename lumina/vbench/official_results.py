"""Results of the official evaluation: `<name>_eval_results.json` of one dimension, clip by clip.

{dimension: [score, [{"video_path", "video_results", ...}, ...]]}; what the records hold beside them differs between
dimensions, and is what their mean is taken over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lumina.files import read_json
from lumina.vbench.clip_score import ClipScore, dimension_score, of_frames

_FRAMES = ("object_class", "multiple_objects", "scene")
_LEFT_OUT = ("color",)
"""Dimensions whose records do not name the clips that have no say."""
_AGREE = 1e-6


@dataclass(frozen=True)
class OfficialResults:
    """One dimension by the official code."""

    score: float
    """0..1."""
    clips: Mapping[str, ClipScore]
    """By file name; those that the dimension leaves out have count 0."""


def read_results(path: Path, dimension: str, names: Mapping[str, int]) -> OfficialResults:
    """Read and check the results of one dimension.

    Args:
        path: of the JSON that the official code wrote.
        dimension: its name.
        names: file name of every clip that was given, to its number of frames.

    Raises ValueError naming file and clip: another dimension, a clip that is missing, unknown or there twice, a score
    that is not finite, or a total that does not follow from its clips.
    """
    content = read_json(path)
    found = content.get(dimension) if isinstance(content, dict) else None
    if not (isinstance(found, list) and len(found) == 2 and isinstance(found[1], list)):
        raise ValueError(f"{path}: expected {{{dimension!r}: [score, [clips]]}}, as VBench writes it")
    clips: dict[str, ClipScore] = {}
    for record in found[1]:
        name = PurePosixPath(str(record.get("video_path"))).name if isinstance(record, dict) else ""
        if name not in names:
            raise ValueError(f"{path}: a record of {name or record!r:.60}, which was not among the clips")
        if name in clips:
            raise ValueError(f"{path}: two records of {name}")
        clips[name] = _clip(dimension, record, names[name], f"{path}: {name}")
    missing = sorted(names.keys() - clips.keys())
    if missing and dimension not in _LEFT_OUT:
        raise ValueError(f"{path}: no record of {missing[0]}" + (f" and {len(missing) - 1} more" * (len(missing) > 1)))
    clips |= dict.fromkeys(missing, ClipScore(0.0, 0))
    score = _number(found[0], f"{path}: the score of {dimension}")
    own = dimension_score(list(clips.values()))
    if abs(score - own) > _AGREE:
        raise ValueError(f"{path}: {dimension} is {score:.6f}, but its clips give {own:.6f}: use one process, one GPU")
    return OfficialResults(score, dict(sorted(clips.items())))


def _clip(dimension: str, record: Mapping[str, Any], frames: int, where: str) -> ClipScore:
    value = _number(record.get("video_results"), where)
    if dimension in _FRAMES:
        return ClipScore(_number(record.get("success_frame_count"), where), int(_number(record["frame_count"], where)))
    return _READERS.get(dimension, _mean)(record, value, frames, where)


def _mean(record: Mapping[str, Any], value: float, frames: int, where: str) -> ClipScore:
    return ClipScore(value, 1)


def _percent(record: Mapping[str, Any], value: float, frames: int, where: str) -> ClipScore:
    return ClipScore(value / 100, 1)


def _pairs(record: Mapping[str, Any], value: float, frames: int, where: str) -> ClipScore:
    # The records of subjects do not say of how many pairs their mean is; of backgrounds they do.
    pairs = int(_number(record.get("cnt_per_video", frames - 1), where))
    return ClipScore(value * pairs, pairs)


def _each_frame(record: Mapping[str, Any], value: float, frames: int, where: str) -> ClipScore:
    results = record.get("frame_results")
    if not isinstance(results, list) or not results:
        raise ValueError(f"{where}: expected the results of its frames in frame_results")
    return of_frames([_number(one, where) for one in results])


_READERS: dict[str, Callable[[Mapping[str, Any], float, int, str], ClipScore]] = {
    "imaging_quality": _percent,
    "subject_consistency": _pairs,
    "background_consistency": _pairs,
    "spatial_relationship": _each_frame,
    "appearance_style": _each_frame,
}


def _number(value: Any, where: str) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {value!r:.40} is no finite number")
    return number
