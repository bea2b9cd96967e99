"""Object detection dimensions from given detections: object class, multiple objects, colour and spatial relationship.

The detector is GRiT (VBench, `object_class.py`, `multiple_objects.py`, `color.py`, `spatial_relationship.py`); its
instances of a frame are what this module reduces, 16 frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lumina.vbench.clip_score import ClipScore, of_frames

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels."""
ColorRule = Literal["first", "own"]
"""Which instance a caption belongs to: "first" compares the object with the class of the frame's first instance for
every caption of the frame, as the official code does by mistake; "own" with the class of the caption's own instance."""

COLORS = ("white", "red", "pink", "blue", "silver", "purple", "orange", "green", "gray", "yellow", "black", "grey")
"""Words that count as a colour; gray and grey are two."""
_NEAR_IOU = 0.1
_HORIZONTAL = ("on the left of", "on the right of")
_VERTICAL = ("on the top of", "on the bottom of")


@dataclass(frozen=True)
class Instance:
    """One detected object."""

    name: str
    """Class."""
    text: str
    """Dense caption, or the class again where the detector only names objects."""
    box: Box


Frame = Sequence[Instance]


def _share(hits: Sequence[bool]) -> ClipScore:
    return ClipScore(float(sum(hits)), len(hits))


def object_class(frames: Sequence[Frame | None], name: str) -> ClipScore:
    """Frames with an instance of exactly this class.

    Args:
        frames: instances of each frame; None is a frame on which the detector failed, which counts as empty.
        name: class to find.
    """
    return _share([any(instance.name == name for instance in frame or ()) for frame in frames])


def multiple_objects(frames: Sequence[Frame], names: str) -> ClipScore:
    """Frames that hold both of "A and B"; raises ValueError unless there are two."""
    wanted = [name.strip() for name in names.split(" and ")]
    if len(wanted) != 2:
        raise ValueError(f'expected two objects as "A and B", got {names!r}')
    return _share([set(wanted) <= {instance.name for instance in frame} for frame in frames])


def colored_object(prompt: str, color: str) -> str:
    """The object of a colour prompt ("a red car" is "car"): without its article and colour, by plain replacement."""
    return prompt.replace("a ", "").replace("an ", "").replace(color, "").strip()


def color(frames: Sequence[Frame], wanted: str, name: str, rule: ColorRule = "first") -> ClipScore:
    """Frames that show the object in the wanted colour, of those that show it in any.

    Args:
        frames: instances of each frame.
        wanted: colour; it and all others are looked for as a part of a caption, so "covered" is red.
        name: class of the object.
        rule: which captions are the object's.

    A clip in which the object has no colour is left out of the dimension: its count is 0, else 1.
    """
    right = coloured = 0
    for frame in frames:
        texts = _texts(frame, name, rule)
        coloured += any(word in text for text in texts for word in COLORS)
        right += any(wanted in text for text in texts)
    return ClipScore(right / coloured, 1) if coloured else ClipScore(0.0, 0)


def _texts(frame: Frame, name: str, rule: ColorRule) -> list[str]:
    if rule == "own":
        return [instance.text for instance in frame if instance.name == name]
    return [instance.text for instance in frame] if frame and frame[0].name == name else []


def spatial_relationship(frames: Sequence[Frame], first: str, second: str, relation: str) -> ClipScore:
    """Mean over frames of the best pair of boxes of either object; frames with fewer than two have 0.

    Objects are found by their caption; two boxes of one object are a pair too, as in the official code.

    Raises ValueError for boxes without area, where the official code divides by zero.
    """
    best = []
    for frame in frames:
        boxes = [instance.box for instance in frame if instance.text in (first, second)]
        pairs = [(a, b) for number, a in enumerate(boxes) for b in boxes[number + 1 :]]
        best.append(max((relation_score(relation, a, b) for a, b in pairs), default=0.0))
    return of_frames(best)


def relation_score(relation: str, first: Box, second: Box) -> float:
    """How far two boxes lie apart in the axis of a relation, 0..1; which of them is left or on top is not checked.

    0 unless the distance of the centres is longer along the axis; 1 where they hardly overlap (IoU below 0.1), else
    0.1 / IoU. An unknown relation has 0, and a part of a known one counts as it, left and right first, as in the
    official code.
    """
    dx = (first[0] + first[2]) / 2 - (second[0] + second[2]) / 2
    dy = (first[1] + first[3]) / 2 - (second[1] + second[3]) / 2
    overlap = _iou(first, second)
    for phrases, along, across in ((_HORIZONTAL, dx, dy), (_VERTICAL, dy, dx)):
        if any(relation in phrase for phrase in phrases):
            far = 1.0 if overlap < _NEAR_IOU else _NEAR_IOU / overlap
            return far if abs(along) > abs(across) else 0.0
    return 0.0


def _iou(first: Box, second: Box) -> float:
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - shared
    if not union:
        raise ValueError(f"boxes {first} and {second} have no area: the detections are broken")
    return shared / union
