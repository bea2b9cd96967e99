"""Adapter: this package under the names that the fixtures' own checker calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumina.vbench import clip_files, detections, dynamic_degree, flicker, frame_choice, recognition, smoothness
from lumina.vbench.clip_score import ClipScore, dimension_score, of_clip, of_frames
from lumina.vbench.consistency import consistency as _consistency
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.totals import totals

middle_index = frame_choice.middle_frames
prompt_from_filename = clip_files.prompt_of
dyn_interval = frame_choice.eight_a_second
dyn_params = dynamic_degree.thresholds
dyn_score = dynamic_degree.pair_score
dyn_check = dynamic_degree.reaches
static_score = flicker.static_score
pair_score = detections.relation_score
color_object = detections.colored_object
to_uint8 = smoothness.quantised


def flicker_video(frames: Any) -> float:
    return flicker.flicker(frames) if len(frames) > 1 else float("nan")


def smooth_video(frames: Any, predicted: Any) -> float:
    return smoothness.smoothness(frames, smoothness.quantised(np.moveaxis(np.asarray(predicted), 1, -1)))


def flicker_aggregate(values: Sequence[float | None]) -> float:
    found = [value for value in values if value is not None]
    return (
        float("nan")
        if not found or np.isnan(found).any()
        else dimension_score([ClipScore(value, 1) for value in found])
    )


def static_params(side: int, frames: int) -> tuple[float, int]:
    return flicker.STATIC_LENGTH * side, round(2 * frames / 16)


def static_check(scores: Sequence[float], length: float, count: int) -> bool:
    side, frames = length / flicker.STATIC_LENGTH, 8 * count
    return flicker.is_static(scores[:-2], scores[-2:], side, frames)  # type: ignore[arg-type]


def static_select(files: Sequence[str], flags: dict[str, bool], prompts: Sequence[str] | None) -> dict[str, str]:
    of_prompt: dict[str, dict[str, bool]] = {}
    for name in files:
        of_prompt.setdefault(clip_files.prompt_of(name), {})[name] = flags[name]
    return {
        f"{prompt}-{number}.mp4": name
        for prompt, clips in of_prompt.items()
        if prompts is None or prompt in prompts
        for number, name in enumerate(flicker.first_static(clips, None if prompts is None else 5))
    }


def consistency(features: Any) -> tuple[float, ClipScore]:
    score = _consistency(np.asarray(features))
    return float(score.value or 0.0), score


def consistency_aggregate(clips: Sequence[tuple[float, ClipScore]]) -> float:
    return dimension_score([score for _, score in clips])


def imaging_aggregate(clips: Sequence[Any]) -> tuple[list[float], float]:
    return [of_clip(frames).total for frames in clips], dimension_score([of_clip(frames / 100) for frames in clips])


def appearance_aggregate(clips: Sequence[Any]) -> float:
    return dimension_score([of_frames(frames) for frames in clips])


def mean_of_videos(values: Sequence[float]) -> float:
    return dimension_score([ClipScore(value, 1) for value in values])


def _instances(frame: Any) -> list[detections.Instance]:
    if frame == "raise":
        raise RuntimeError("detector failed")
    rows = zip(frame["types"], frame["desc"], frame["boxes"], strict=True)
    return [detections.Instance(name, text, tuple(box)) for name, text, box in rows]


def _pair(score: ClipScore) -> tuple[float, int]:
    return score.total, score.count


def object_class(frames: Any, name: str) -> tuple[float, int]:
    return _pair(detections.object_class([None if f == "raise" else _instances(f) for f in frames], name))


def multiple_objects(frames: Any, names: str) -> tuple[float, int]:
    return _pair(detections.multiple_objects([_instances(frame) for frame in frames], names))


def color(frames: Any, wanted: str, name: str) -> tuple[int, float]:
    total, count = _pair(detections.color([_instances(frame) for frame in frames], wanted, name))
    return count, total


def color_aggregate(clips: Sequence[tuple[int, float]]) -> float:
    if not any(count for count, _ in clips):
        raise ValueError("no clip counts")
    return dimension_score([ClipScore(total, count) for count, total in clips])


def spatial(frames: Any, told: Any) -> list[float]:
    told = told.get("spatial_relationship", told)
    return [
        detections.spatial_relationship(
            [_instances(frame)], told["object_a"], told["object_b"], told["relationship"]
        ).total
        for frame in frames
    ]


def scene(captions: Sequence[str], wanted: str) -> tuple[float, int]:
    return _pair(recognition.scene(captions, wanted))


def human_action(logits: Any, categories: Any, file: str) -> bool:
    return bool(recognition.human_action(logits, {int(k): v for k, v in categories.items()}, file).total)


def aggregate(scores: dict[str, float]) -> tuple[float, float, float]:
    found = totals({name: scores[name.replace("_", " ")] for name in DIMENSIONS})
    return found.quality, found.semantic, found.total
