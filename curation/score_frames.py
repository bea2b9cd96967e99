"""Frames for clip scores: decoded once for all scorers, in the decoding process.

What needs every frame of the window is measured as they go by; of the sampled ones networks get the pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.camera_motion import Camera
from curation.film_frames import Track
from curation.fitting import Fit
from curation.images import read_image
from curation.picture_quality import Quality, luma_of
from curation.video_files import read_video
from lumina.frame_times import pick_frames

Image = NDArray[np.uint8]


def sampled(count: int, samples: int) -> list[int]:
    """Indices of at most `samples` of `count` frames: the middle ones of as many equal parts."""
    taken = min(count, samples)
    return [(2 * part + 1) * count // (2 * taken) for part in range(taken)]


def found_in_frames(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, float | None], Image]:
    """The columns that are measured of a clip's frames, and the sampled ones [S, H, W, 3] where `pixels` asks for them.

    Args:
        path: of the file.
        settings: `media`, `track`, and `times_s` of all frames of the window from the film's first frame on, of which
            `samples` are indices; `quality` and `camera` are the arguments of `Quality` and `Camera`, or null.
    """
    quality = None if settings["quality"] is None else Quality(**settings["quality"])
    camera = None if settings["camera"] is None else Camera(**settings["camera"])
    times, samples = settings["times_s"], settings["samples"]
    if quality is None and camera is None:
        times, samples = [times[index] for index in samples], range(len(samples))
    watch = _Watch(set(samples), quality, camera, settings["pixels"])
    if settings["media"] == "image":
        watch.at(0, 0.0)
        watch.see(read_image(path).pixels[None], (0, 0))
    else:
        read_video(path, Track.parse(settings["track"]), times, Fit(watch.see, (0, 0)), watch.pick)
    watch.close()
    found = {**(quality.found() if quality else {}), **(camera.found() if camera else {})}
    return found, np.stack(watch.kept) if watch.kept else np.empty(0, np.uint8)


class _Watch:
    """Follows the frames that are decoded; one that still stands at a later time is seen once, and may be sampled
    there."""

    def __init__(self, samples: set[int], quality: Quality | None, camera: Camera | None, keeps: bool) -> None:
        self.kept: list[Image] = []
        self._samples, self._quality, self._camera, self._keeps = samples, quality, camera, keeps
        self._index, self._stamp_s = -1, 0.0
        self._frame: Image | None = None
        self._luma: Image | None = None
        self._before: Image | None = None

    def pick(self, times_s: Sequence[float], frames: Iterable[Any], interval_s: float) -> Iterator[tuple[float, Any]]:
        """As `pick_frames`; the next frame to be seen is the one at the time of this index."""
        for index, (stamp, frame) in enumerate(pick_frames(times_s, frames, interval_s)):
            self.at(index, stamp)
            yield stamp, frame

    def at(self, index: int, stamp_s: float) -> None:
        """The frame so far was that of the index before."""
        self.close()
        self._index, self._stamp_s = index, stamp_s

    def see(self, frames: Image, _size: tuple[int, int]) -> Image:
        """Look at another frame [1, H, W, 3]; leaves nothing of it in the array of fitted ones."""
        self._frame = frames[0]
        if self._quality is None and self._camera is None:
            return np.empty((1, 0), np.uint8)
        self._before, self._luma = self._luma, luma_of(self._frame)
        if self._quality is not None and self._before is not None:
            self._quality.follow(self._before, self._luma)
        if self._camera is not None:
            self._camera.see(self._stamp_s, self._luma)
        return np.empty((1, 0), np.uint8)

    def close(self) -> None:
        """Take the frame that is there, if its index is one of the sampled."""
        if self._frame is None or self._index not in self._samples:
            return
        if self._quality is not None and self._luma is not None:
            self._quality.sample(self._frame, self._luma, self._before)
        if self._keeps:
            self.kept.append(self._frame)
