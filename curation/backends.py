"""Decoding of media files: what a video or an image is, and its frames by time.

Plain functions of a local path, as `curation.video_files` and `curation.images` have them for their kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation.film_frames import Track
from curation.schema import Reason, RowError
from curation.video_files import Frames, Probe, probe_video, read_video


def probe(path: Path, media: str, start_s: float | None = None, end_s: float | None = None) -> Probe:
    """Decode an image, or a film from `start_s` to `end_s` seconds after its first frame; RowError says why not."""
    if media == "image":
        image, codec, mode = _read_image(path)
        return Probe(image.shape[1], image.shape[0], codec, mode, _pillow_name())
    return probe_video(path, start_s, end_s)


def read(path: Path, media: str, track: str | None, times_s: Sequence[float]) -> Frames:
    """Frames of a probed file at the ascending `times_s`, seconds from the film's first frame; of an image its picture.

    `track` is what the probe recorded. RowError if they cannot be had.
    """
    if media == "image":
        return Frames(np.repeat(_read_image(path)[0][None], len(times_s), axis=0), tuple(times_s))
    if track is None:
        raise RowError(Reason.DECODE_ERROR, "the clip has not been probed")
    return read_video(path, Track.parse(track), times_s)


def load_backends() -> None:
    """Import what decoding needs, which takes a second that no clip should be charged for."""
    import av  # noqa: F401
    import cv2  # noqa: F401
    import PIL.Image  # noqa: F401


def _read_image(path: Path) -> tuple[NDArray[np.uint8], str, str]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            codec, mode = (image.format or "unknown").lower(), image.mode
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB")), codec, mode
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        from curation.film_frames import brief

        raise RowError(Reason.DECODE_ERROR, f"pillow: {brief(error)}") from error


def _pillow_name() -> str:
    import PIL

    return f"pillow/{PIL.__version__}"
