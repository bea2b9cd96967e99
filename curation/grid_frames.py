"""Frame sampling as MMAudio does it: what CLIP and Synchformer see of a clip, on a grid of times.

At k / fps it is the first frame that begins then or later, and the clip's last where there is none; the features of the
published model were made so. Elsewhere in the project it is the frame on the screen (`lumina.frame_times`).

Frames leave the decoding process as large as the network takes them. They are resized there with torch, by the function
that the networks' own preparation has: on whole grey levels one frame gives the same bits as many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curation.decode_limits import DecodeLimits
from curation.decoder import COMMAND, Decoder
from curation.film_frames import Track
from curation.fitting import Fit
from curation.media import localized
from curation.operator import Env
from curation.video_files import read_video

Shape = Literal["middle", "squashed"]
"""The middle square, or all of the picture as a square."""


def grid_decoder(limits: DecodeLimits) -> Decoder:
    """A decoder for `grid_frames`. Its process has torch from the start: no clip's time and memory are spent on it."""
    return Decoder(limits, (*COMMAND, "lumina.video_to_audio.frames"))


def grid_frames(
    decoder: Decoder, row: Mapping[str, Any], env: Env, fps: float, count: int, shape: Shape, side: int
) -> NDArray[np.uint8]:
    """Frames [count, side, side, 3] of a probed clip, RGB, at k / fps seconds from its start; RowError if it has none.

    No frame is from beyond the row's span.
    """
    settings = {
        "track": row["track"],
        "start_s": row["span_start_s"] or 0.0,
        "end_s": row["span_end_s"],
        "fps": fps,
        "count": count,
        "shape": shape,
        "side": side,
    }
    with localized(row["uri"], env.media_root, env.stores) as path:
        return decoder.array("curation.grid_frames:frames_of", path, settings)[1]


def frames_of(path: Path, settings: Mapping[str, Any]) -> tuple[None, NDArray[np.uint8]]:
    """The pixels of `grid_frames`, in the decoding process."""
    import torch

    from lumina.video_to_audio.frames import first_frames, middle, squashed

    torch.set_num_threads(1)
    track, start = Track.parse(settings["track"]), settings["start_s"]
    # As probing tells the frames of a span, see `lumina.frame_times.span_of`.
    end = math.inf if settings["end_s"] is None else settings["end_s"] - track.interval_s / 2
    fit = Fit({"middle": middle, "squashed": squashed}[settings["shape"]], (settings["side"], settings["side"]))
    times = [start + index / settings["fps"] for index in range(settings["count"])]
    pick = partial(_pick, first_frames, end)
    return None, read_video(path, track, times, fit, pick).pixels


def _pick(first_frames: Any, end_s: float, times_s: Any, frames: Any, _interval_s: float) -> Any:
    return first_frames(times_s, frames, end_s)
