"""Probe files and decode frames: decord first, PyAV where decord cannot, Pillow for images.

Rows in: clips. Rows out: the same, with what the container says and what a decoder delivers. The decoder that worked is
recorded per row, and later stages use that one: two backends may round colours differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.manifests import local_path
from curation.operator import Env, Input, Layout, Operator, map_rows
from curation.schema import PROBE, Reason, RowError
from lumina.config import Config


class ProbeConfig(Config):
    """How files are probed."""

    decoder: Literal["decord", "pyav"] = "decord"
    """Backend to try first; `decord` falls back to PyAV."""


@dataclass(frozen=True)
class Probe:
    """What is known of a file after decoding its first and last frame."""

    width: int
    height: int
    rotation: int
    """Degrees clockwise that were applied to show it: 0, 90, 180 or 270. Width and height are as shown."""
    fps: float | None
    """Average frames per second; None for an image."""
    frames_container: int | None
    """Number of frames that the container claims, where it does."""
    frames_decodable: int
    duration_s: float
    """`frames_decodable / fps`; 0 for an image."""
    codec: str
    pix_fmt: str
    decoder: str
    """Backend and version."""


@dataclass(frozen=True)
class _Stream:
    width: int
    height: int
    rotation: int
    fps: float
    frames: int | None
    codec: str
    pix_fmt: str


@dataclass(frozen=True)
class _Decoded:
    frames: int
    width: int
    height: int
    decoder: str


def probe(path: Path, media: str, config: ProbeConfig) -> Probe:
    """Probe a file. RowError for one that cannot be used, with what each backend said."""
    if media == "image":
        image, codec, mode = _read_image(path)
        return Probe(image.shape[1], image.shape[0], 0, None, 1, 1, 0.0, codec, mode, _pillow_name())
    stream = _read_stream(path)
    failures = []
    for backend in (_try_decord, _try_pyav) if config.decoder == "decord" else (_try_pyav,):
        try:
            decoded = backend(path)
        except ImportError:
            continue  # decord has no wheel for some platforms
        except Exception as error:  # noqa: BLE001 - decoders raise whatever their native code does
            failures.append(f"{backend.__name__.removeprefix('_try_')}: {_brief(error)}")
            continue
        return Probe(
            width=decoded.width,
            height=decoded.height,
            rotation=stream.rotation,
            fps=stream.fps,
            frames_container=stream.frames,
            frames_decodable=decoded.frames,
            duration_s=decoded.frames / stream.fps,
            codec=stream.codec,
            pix_fmt=stream.pix_fmt,
            decoder=decoded.decoder,
        )
    raise RowError(Reason.DECODE_ERROR, "; ".join(failures))


def frames_at(uri: str, media_root: str, media: str, decoder: str, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Decode the frames `indices` of a probed clip, upright: uint8 [len(indices), H, W, 3], RGB.

    `decoder` is what the probe recorded. RowError if the frames cannot be had.
    """
    path = local_path(uri, media_root)
    backend = decoder.partition("/")[0]
    if media == "image":
        return np.repeat(_read_image(path)[0][None], len(indices), axis=0)
    try:
        if backend == "decord":
            return _decord_frames(path, indices)
        if backend == "pyav":
            from lumina.video import read_frames

            return read_frames(path, indices)
    except Exception as error:
        raise RowError(Reason.DECODE_ERROR, f"{decoder}: {_brief(error)}") from error
    raise RowError(Reason.DECODE_ERROR, f"unknown decoder {decoder!r}: probe the clip again")


def _read_stream(path: Path) -> _Stream:
    """Read a video's properties from its container and first frame."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise RowError(Reason.NO_VIDEO_STREAM, "the file has no video stream")
            stream = container.streams.video[0]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise RowError(Reason.DECODE_ERROR, "pyav: the video stream has no frame")
            rate = stream.average_rate or stream.guessed_rate
            if not rate:
                raise RowError(Reason.DECODE_ERROR, "pyav: the video stream states no frame rate")
            return _Stream(
                width=frame.width,
                height=frame.height,
                rotation=-frame.rotation % 360,
                fps=float(rate),
                frames=stream.frames or None,
                codec=stream.codec_context.codec.canonical_name,
                pix_fmt=stream.codec_context.pix_fmt or "unknown",
            )
    except (av.FFmpegError, OSError) as error:
        raise RowError(Reason.DECODE_ERROR, f"pyav: {_brief(error)}") from error


def _try_decord(path: Path) -> _Decoded:
    """Decode the first and the last frame: the container's count may be larger than what is there."""
    decord = _decord()
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    count = len(reader)
    shape = reader.get_batch(sorted({0, count - 1})).shape
    return _Decoded(count, shape[2], shape[1], f"decord/{decord.__version__}")


def _try_pyav(path: Path) -> _Decoded:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise ValueError("no frame")
        count = 1 + sum(1 for _ in frames)
        sides = (first.width, first.height)
        width, height = sides[::-1] if round(first.rotation / 90) % 2 else sides
    return _Decoded(count, width, height, f"pyav/{av.__version__}")


def _decord_frames(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    decord = _decord()
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    unique, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if unique[0] < 0 or unique[-1] >= len(reader):
        raise IndexError(f"asked for frame {unique[-1]}, the clip has {len(reader)}")
    frames: NDArray[np.uint8] = reader.get_batch(unique.tolist()).asnumpy()
    return frames[inverse]


def _decord() -> Any:
    # With a GPU, torch has to be loaded before decord (decord issue 293); elsewhere it would cost seconds for nothing.
    if Path("/dev/nvidiactl").exists():
        import torch  # noqa: F401
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _read_image(path: Path) -> tuple[NDArray[np.uint8], str, str]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            codec, mode = (image.format or "unknown").lower(), image.mode
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB")), codec, mode
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise RowError(Reason.DECODE_ERROR, f"pillow: {_brief(error)}") from error


def _pillow_name() -> str:
    import PIL

    return f"pillow/{PIL.__version__}"


def _brief(error: Exception) -> str:
    """First line of an error, without the stack that native decoders append and without paths of this machine."""
    import re

    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    text = re.sub(r"\[\d\d:\d\d:\d\d\] ", "", lines[0])
    text = re.sub(r"(?:/[^\s:/']+)+/", "", text)
    return f"{type(error).__name__}: {re.sub(r'-?[0-9]{6,}', 'N', text)}"


def _plan(inputs: Mapping[str, Input], _config: ProbeConfig, _env: Env) -> pa.Table:
    return inputs["clips"].rows().sort_by("clip_id")


def _make(config: ProbeConfig, env: Env) -> Callable[[pa.Table], pa.Table]:
    def look(row: dict[str, Any]) -> dict[str, Any]:
        found = asdict(probe(local_path(row["uri"], env.media_root), row["media"], config))
        if not all(math.isfinite(found[name] or 0) for name in ("fps", "duration_s")):
            raise RowError(Reason.DECODE_ERROR, f"impossible frame rate {found['fps']}")
        return found

    return lambda table: map_rows(table, PROBE, PROBE_OPERATOR.name, look)


PROBE_OPERATOR = Operator(
    name="probe",
    config=ProbeConfig,
    schema=PROBE,
    inputs=("clips",),
    plan=_plan,
    make=_make,
    layout=Layout(rows_per_file=1024),
)
"""Reads the input `clips`: the output of `ingest`."""
