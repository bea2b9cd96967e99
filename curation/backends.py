"""Decoding of media files: what a video or an image is, and its frames by time.

Plain functions of a local path, as `curation.video_files` and `curation.images` have them for their kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curation.film_frames import Track
from curation.fitting import Fit
from curation.images import read_image
from curation.schema import Reason, RowError
from curation.video_files import Frames, Probe, probe_video, read_video


def probe(path: Path, media: str, start_s: float | None = None, end_s: float | None = None) -> Probe:
    """Decode an image, or a film from `start_s` to `end_s` seconds after its first frame; RowError says why not."""
    if media == "image":
        still = read_image(path)
        height, width = still.pixels.shape[:2]
        return Probe(width, height, still.codec, still.pix_fmt, _pillow_name())
    return probe_video(path, start_s, end_s)


def read(path: Path, media: str, track: str | None, times_s: Sequence[float], fit: Fit | None = None) -> Frames:
    """Frames of a probed file at the ascending `times_s`, seconds from the film's first frame; of an image its picture.

    `track` is what the probe recorded; `fit` is applied to each. RowError if they cannot be had.
    """
    if media == "image":
        image = read_image(path).pixels
        fitted = image if fit is None else fit(image)
        return Frames(np.repeat(fitted[None], len(times_s), axis=0), tuple(times_s), (image.shape[1], image.shape[0]))
    if track is None:
        raise RowError(Reason.DECODE_ERROR, "the clip has not been probed")
    return read_video(path, Track.parse(track), times_s, fit)


def load_backends() -> None:
    """Import what decoding needs, which takes a second that no clip should be charged for."""
    import av  # noqa: F401
    import cv2
    import PIL.Image  # noqa: F401

    # Workers are the parallelism, and threads that wait for so little work spin.
    cv2.setNumThreads(1)


def _pillow_name() -> str:
    import PIL

    return f"pillow/{PIL.__version__}"
