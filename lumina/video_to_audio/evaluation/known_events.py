"""Known events of a clip: what is heard of it and when, as the Shapes world tells it in the column `scene`."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownEvents:
    """Of one clip, by time."""

    times_s: tuple[float, ...]
    pitches_hz: tuple[float, ...]
    seen: tuple[bool, ...]
    """Whether a shape makes it; the others are off-screen."""


def known_events(extra: str | None, duration_s: float) -> KnownEvents | None:
    """The events of a clip's first `duration_s` seconds; None where nothing is known of it.

    Args:
        extra: the column of that name, a JSON object; its `scene` is a scene's truth, or that as text.
        duration_s: what begins at its end or after it is left out.

    Raises ValueError for a `scene` that tells of sounds, but not when, how high and whether they are seen.
    """
    scene = json.loads(extra).get("scene") if extra else None
    if isinstance(scene, str):
        scene = json.loads(scene)
    # The scene of a clip without sound is a list of shapes.
    if not isinstance(scene, dict) or "events" not in scene:
        return None
    try:
        told = [(float(one["time_s"]), float(one["pitch_hz"]), bool(one["seen"])) for one in scene["events"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"scene.events must each have time_s, pitch_hz and seen, which fails at {error!r}") from error
    within = sorted(one for one in told if one[0] < duration_s)
    times, pitches, seen = (tuple(column) for column in zip(*within, strict=True)) if within else ((), (), ())
    return KnownEvents(times, pitches, seen)
