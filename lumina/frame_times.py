"""Which frames of a clip are looked at."""

from __future__ import annotations

from collections.abc import Sequence


def pick_frames(times_s: Sequence[float], fps: float, num_frames: int) -> list[int]:
    """Indices of the frames shown at `times_s` (ascending seconds from the first frame): THE rule of the project.

    index = time * fps rounded to the nearest integer, halves to the even one (Python's `round`), as the released
    motion script does; the list ends before the first index that is not in the clip. With fewer frames per second than
    times, indices repeat.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    indices: list[int] = []
    for time in times_s:
        index = round(time * fps)
        if index >= num_frames:
            break
        indices.append(index)
    return indices
